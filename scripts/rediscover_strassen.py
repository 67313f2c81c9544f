"""Learns to multiply 2×2 matrices by few multiplications, from examples: `python scripts/rediscover_strassen.py`.

`vec(C) = W_C [(W_B vec(B)) ⊙ (W_A vec(A))]` with `--products` multiplications, all three matrices learned (Tschannen et
al. 2018). Many restarts train side by side: in full precision, then towards entries −1, 0 and 1, which are frozen at
last. A restart succeeds if its entries multiply all matrices exactly: this is checked coefficient by coefficient. The
first that does becomes a layer of autosample, and multiplies whole matrices.

`--pull 0` learns ternary entries with straight-through gradients instead, as the paper does.
"""

import argparse
import itertools
import time

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import autosample
from autosample.coding.straight import straight
from autosample.coding.ternary import ternary
from autosample.nn import SumProductLinear

# Largest learning rates in full precision and afterwards, pairs of matrices in a step, and the decay of entries.
_RATES, _BATCH, _DECAY = (0.05, 0.01), 64, 0.003

Matrices = list[nn.Parameter]


def vec(m: Float[Tensor, "b 2 2"]) -> Float[Tensor, "b 4"]:
    """Column by column."""
    return m.transpose(1, 2).flatten(1)


def products() -> Float[Tensor, "4 4 4"]:
    """The coefficient of `vec(A)_i · vec(B)_j` in `vec(AB)_n`, by the definition of a matrix product."""
    made = torch.zeros(4, 4, 4)
    for row, column, inner in itertools.product(range(2), repeat=3):
        made[2 * column + row, 2 * inner + row, 2 * column + inner] = 1
    return made


def learn(restarts: int, count: int, steps: tuple[int, int], pull: float) -> Matrices:
    """`W_A`, `W_B` and `W_C` of every restart, `(restarts, r, 4)` each."""
    weights = [nn.Parameter(2 * torch.rand(restarts, count, 4) - 1) for _ in range(3)]
    optimizer = torch.optim.Adam(weights)
    for step in range(sum(steps)):
        late = step >= steps[0]
        done = (step - steps[0]) / steps[1] if late else step / steps[0]
        optimizer.param_groups[0]["lr"] = _RATES[late] * (1 - 0.9 * done)
        used = [straight(w, ternary(w, "plain")[0]) for w in weights] if late and not pull else weights
        a, b = torch.randn(2, _BATCH, 2, 2)
        sums = [torch.einsum("srm,bm->sbr", w, vec(x)) for w, x in zip(used, (a, b), strict=False)]
        error = torch.einsum("srn,sbr->sbn", used[2], sums[0] * sums[1]) - vec(a @ b)
        loss = error.square().mean((1, 2)).sum()
        if not late:
            loss = loss + _DECAY * sum(w.square().sum() for w in weights)
        elif pull:  # no force at −1, 0 and 1
            loss = loss + pull * done * sum((w.square() * (w.abs() - 1).square()).sum() for w in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if late and not pull:
            with torch.no_grad():
                for w in weights:
                    w.clamp_(-1, 1)
    return weights


def exact(entries: list[Tensor]) -> Bool[Tensor, " restarts"]:
    """Which restarts multiply exactly."""
    found = torch.einsum("srn,sri,srj->snij", entries[2], entries[0], entries[1])
    return (found == products()).flatten(1).all(1)


@torch.no_grad()
def as_layer(w_a: Tensor, w_b: Tensor, w_c: Tensor) -> None:
    """Multiply matrices of whole numbers with a sum-product layer, and compare."""
    layer = SumProductLinear(4, 4, bias=False, options={"products": len(w_a) / 4, "quantizer": "plain"}).double()
    assert layer.gather is not None
    assert layer.spread is not None
    layer.gather.copy_(w_b)
    layer.spread.copy_(w_c)
    autosample.harden_(layer.eval())
    for _ in range(100):
        a, b = torch.randint(-99, 100, (2, 1, 2, 2)).double()
        layer.scale.copy_(w_a.double() @ vec(a)[0])
        assert torch.equal(layer(vec(b)), vec(a @ b)), "the layer must multiply exactly"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--products", type=int, default=7, help="multiplications; 6 are too few for any algorithm")
    parser.add_argument("--steps", type=int, nargs=2, default=(1000, 2000), help="in full precision, and afterwards")
    parser.add_argument("--pull", type=float, default=0.05, help="towards entries; 0: straight-through gradients")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    start = time.perf_counter()
    weights = learn(given.restarts, given.products, tuple(given.steps), given.pull)
    entries = [ternary(w, "plain")[0] for w in weights]
    right = exact(entries)
    share = right.float().mean().item()
    print(
        f"{int(right.sum())} of {given.restarts} restarts ({share:.0%}) found an exact algorithm with {given.products}"
    )
    print(f"multiplications, in {time.perf_counter() - start:.0f} s, seed {given.seed}")
    if right.any():
        first = int(right.int().argmax())
        own = [w[first] for w in entries]
        as_layer(*own)
        for name, w in zip(("W_A", "W_B", "W_C transposed"), own, strict=True):
            print(f"{name}: {w.int().tolist()}")


if __name__ == "__main__":
    main()
