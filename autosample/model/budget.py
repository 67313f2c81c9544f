"""What a model was asked to cost, and what it costs."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Budget:
    """What a conversion was asked for, and the ratio that meets it.

    Attributes:
        kind: `bytes`: stored bytes of the whole model. `latency`: time of a forward pass of the deployed model [ms].
            `multiplications`: those of a forward pass.
        asked, reached: The budget, and what it was met with [bytes, ms, or a count].
        ratio: Ratio of the spec; 0 if `products` is the size.
        overrides: Overrides of `convert_` besides the user's; empty if the ratio is enough.
        planned_bits: The bytes are those after a quantisation to this many bits per number; 32 for none.
        threads: Number of torch's threads while the latency was measured; 0 for other budgets.
        products: Products per output channel of sum-product layers, for a budget of multiplications.
    """

    kind: Literal["bytes", "latency", "multiplications"]
    asked: float
    reached: float
    ratio: float
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    planned_bits: int = 32
    threads: int = 0
    products: float = 0.0

    @property
    def size(self) -> dict[str, Any]:
        """The size of a spec that meets the budget, as its fields."""
        return {"options": {"products": self.products}} if self.products else {"ratio": self.ratio}

    def __str__(self) -> str:
        if self.kind == "latency":
            how = f"deployed, {self.threads} thread{'s' if self.threads > 1 else ''}"
            return f"asked for {self.asked:g} ms ({how}), reached {self.reached:.3g} ms at ratio {self.ratio:.4g}"
        if self.kind == "multiplications":
            by = f"{self.products:.4g} products per output channel" if self.products else f"ratio {self.ratio:.4g}"
            return f"asked for {self.asked:,.0f} multiplications, reached {self.reached:,.0f} with {by}"
        bits = f" at {self.planned_bits} bits per number" if self.planned_bits < 32 else ""
        return f"asked for {self.asked:,.0f} bytes{bits}, reached {self.reached:,.0f} at ratio {self.ratio:.4g}"
