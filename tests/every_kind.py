"""A net with a layer of each kind that can be compressed."""

import torch
from every_spec import SPECS
from torch import Tensor, nn

import autosample

X = (3, 8, 40)
#: How the numbers of its layers are stored: arguments of `quantize_`.
CODINGS = {
    "plain": None,
    "linear": {"bits": 4},
    "vector": {"bits": 3, "method": "codebook", "vector": 4},
}
#: All methods, and blocks that are learned.
METHODS = {**SPECS, "learned blocks": {"preset": "folded", "options": {"assignment": "learned"}}}
#: Every method with every coding.
EVERY = [(method, coding) for method in METHODS for coding in CODINGS]


class EveryKind(nn.Module):
    """Signals, images, groups, single places, volumes, transposed convolutions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = nn.Conv1d(8, 16, 9, padding=4)
        self.norm = nn.BatchNorm1d(16)
        self.image = nn.Conv2d(4, 16, (3, 5), (1, 2), (1, 2), padding_mode="reflect")
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.volume = nn.Conv3d(4, 8, (2, 3, 3), padding=(0, 1, 1))
        self.wide = nn.ConvTranspose2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 6, 5, 2)
        self.head = nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.signal(x)).relu().unflatten(1, (4, 4))
        y = self.pointwise(self.grouped(self.image(y)).relu()).unflatten(1, (4, 8))
        y = self.wide(self.volume(y).amax(2)).flatten(2)
        return self.head(nn.functional.adaptive_avg_pool1d(self.up(y), 8).flatten(1))


def every_kind(method: str) -> nn.Module:
    """Such a net in evaluation mode, with norms as after some training; all layers that can be are converted."""
    torch.manual_seed(0)
    net = EveryKind().eval()
    nn.init.uniform_(net.norm.running_mean, -0.1, 0.1)
    size = {"options": {"products": 1}} if method == "strassen" else {"ratio": 4, "share": "even"}
    autosample.convert_(net, METHODS[method], include=["re:.*"], **size)
    return net
