"""Dense layers that store their weight at few bits."""

from collections.abc import Mapping

from torch import Tensor, nn

from autosample.nn.compressed import Compressed
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec


class CodedLayer(Compressed):
    """A layer with one number per weight, used and stored at the levels of its quantizer.

    Attributes:
        numbers: The weight's numbers, `(N, M, *kernel)`.
    """

    coded = ("numbers",)
    prefix = "Coded"
    title = "coded"

    numbers: nn.Parameter

    @classmethod
    def planned(cls, spec: Spec, shape: tuple[int, ...], bits: int = 32) -> int:
        total = 1
        for size in shape:
            total *= size
        return total

    def make(self, like: Tensor, name: str) -> None:
        self.numbers = nn.Parameter(like.detach().clone())

    def compose(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["numbers"]

    @classmethod
    def rebuilt(cls, layer: nn.Module, settings: object, name: str) -> Compressed:
        return cls.take_over(layer.to("meta"), make_spec("dense"), name)
