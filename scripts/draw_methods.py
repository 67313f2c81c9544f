"""Draws the pictures of the pages on single methods into results/methods, with their figures as JSON.

`python scripts/draw_methods.py [strassen, kmeans or generations]` counts the operations of ResNet-18, trains a small
net on the bundled digits with and without the penalty of Deep k-Means, and draws the record of born-again networks:
two minutes on one core.
"""

import copy
import json
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
from doctables.methods import REGIMES, Member, scores
from torch import nn

import autosample
from autosample.coding.clusters import Clusters
from autosample.data import Digits
from autosample.experiments.colours import METHODS, for_text
from autosample.experiments.drawing import WIDTH, drawn, plain_log
from autosample.experiments.labels import End, label_ends
from autosample.experiments.run import train
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.quiet import quiet

OUT = Path(__file__).parents[1] / "results" / "methods"
PRODUCTS = (0.25, 0.5, 1, 2, 4, 6)
# the paper counts one multiplication more for each output of a convolution, for its norm
OUTPUTS = 2_483_712
# read off the poster: products, patch, multiplications (less 512,000 of the classifier where it counts them), additions
PUBLISHED = [
    (0.5, 1, 3.73e6, 1.06e9), (1, 1, 4.97e6, 2.11e9), (2, 1, 7.46e6, 4.22e9), (6, 1, 1.74e7, 1.27e10),
    (1, 2, 3.11e6, 1.18e9), (2, 2, 3.73e6, 2.36e9), (6, 2, 6.21e6, 7.06e9),
]  # fmt: skip
LAYER, CODEWORDS = "layer3.0.conv2", 12
RATIO = 20  # of the clustered nets
PENALTY = {"strength": 0.1, "form": "indicator", "start": 0.3, "every": 1, "ratio": 500}


def counted(products: float, patch: int) -> tuple[int, int]:
    """Multiplications and additions of ResNet-18's convolutions for an image of 224×224, if no entry is zero."""
    with torch.device("meta"):
        net, x = timm.create_model("resnet18").eval(), torch.empty(1, 3, 224, 224)
    if products:
        options = {"products": products, "patch": patch}
        autosample.convert_(net, "strassen", include=["Conv2d"], overrides={"conv1": {}}, options=options)
    rows = [row for row in autosample.report(net, x).rows if row.kind.endswith("Conv2d")]
    more = OUTPUTS if products else 0
    return sum(row.multiplications or 0 for row in rows) + more, sum(row.additions or 0 for row in rows)


def counts() -> dict[str, Any]:
    """All counts, from results/methods/strassen.json if that is there."""
    kept = OUT / "strassen.json"
    if not kept.exists():
        patches = {str(patch): [counted(products, patch) for products in PRODUCTS] for patch in (1, 2)}
        write_json(kept, {"dense": counted(0, 1), "products": PRODUCTS, "patches": patches})
    return json.loads(kept.read_text())


def draw_strassen() -> None:
    """Operations against products, for both patches, with the published ones and the dense net."""
    found, style = counts(), METHODS["strassen"]
    with drawn(OUT / "strassen.png", across=2, figsize=(WIDTH, 4.3)) as (figure, axes):
        figure.subplots_adjust(left=0.105, right=0.9, bottom=0.14, top=0.8, wspace=0.68)
        figure.suptitle("ResNet-18 as sum-product layers: operations of its convolutions", x=0.02, ha="left")
        about = (
            "patches of p × p outputs; lines: counted, no entry is zero; rings: published; with norms, as in the paper"
        )
        figure.text(0.02, 0.88, about, fontsize=9.5, color="#555555")
        for at, (panel, name) in enumerate(zip(axes[0], ("multiplications", "additions"), strict=True)):
            dense = found["dense"][at] / 1e6
            panel.axhline(dense, color=METHODS["dense"].colour, lw=1.2)
            ends = [End("dense", PRODUCTS[-1], dense, METHODS["dense"].colour)]
            for patch, dashes in ((1, "-"), (2, "--")):
                line = [both[at] / 1e6 for both in found["patches"][str(patch)]]
                points = [(one[0], one[2 + at] / 1e6) for one in PUBLISHED if one[1] == patch]
                panel.plot(PRODUCTS, line, ls=dashes, marker=style.marker, ms=4, lw=1.6, color=style.colour)
                panel.scatter(*zip(*points, strict=True), s=70, facecolors="none", edgecolors="#777777", zorder=3)
                ends.append(End(f"p = {patch}", PRODUCTS[-1], line[-1], for_text(style.colour)))
            panel.set_xlim(0.22, 7)
            panel.set_ylim(*((1.5, 4000) if at == 0 else (250, 20_000)))
            for axis in (panel.xaxis, panel.yaxis):
                plain_log(axis, 6)
            panel.grid(alpha=0.25, lw=0.6)
            panel.set_xlabel("products for each output channel")
            panel.set_ylabel(f"{name} [millions]")
            label_ends(panel, ends, 10)


def rows_of(net: nn.Module) -> torch.Tensor:
    """The kernel rows of a layer, in units of their mean size."""
    rows = net.get_submodule(LAYER).get_parameter("weight").detach().flatten(0, 2)
    return rows / rows.square().mean().sqrt()


def clustered(net: nn.Module, data: Digits) -> dict[str, float]:
    """Test accuracy of the dense net, after k-means of all layers but the ends, and with renewed norms."""
    small = copy.deepcopy(net)
    with quiet():
        autosample.convert_(small, "kmeans", ratio=RATIO, warm_start=True)
    renewed = autosample.renew_norms_(copy.deepcopy(small), data.train_dataloader())
    scores = {}
    for name, model in (("dense", net), ("clustered", small), ("renewed", renewed)):
        right = [(model.eval()(x).argmax(1) == y).float() for x, y in data.test_dataloader()]
        scores[name] = float(torch.cat(right).mean())
    return scores


@torch.no_grad()
def draw_kmeans() -> None:
    """Kernel rows of a layer of a small trained net, with and without the penalty, and its codewords."""
    settings: dict[str, Any] = {"model": "test_resnet", "num_classes": 10, "in_chans": 1, "spec": "dense", "lr": 4e-3}
    told: dict[str, Any] = {}
    with drawn(OUT / "kmeans.png", across=2, figsize=(WIDTH, 4.6), sharex=True, sharey=True) as (figure, axes):
        figure.subplots_adjust(left=0.085, right=0.98, bottom=0.13, top=0.79, wspace=0.08)
        figure.suptitle(f"Kernel rows of a small net trained on digits ({LAYER})", x=0.02, ha="left")
        figure.text(0.02, 0.885, f"dots: rows of three weights, two of them shown; crosses: {CODEWORDS} codewords")
        for panel, (name, penalty) in zip(
            axes[0], (("without the penalty", 0.0), ("with the penalty", PENALTY)), strict=True
        ):
            data = Digits(image_size=16, padding=1, batch_size=64)
            with torch.enable_grad():
                model, _ = train(data, {**settings, "cluster_penalty": penalty}, epochs=20)
            rows, accuracy = rows_of(model.net), clustered(model.net, data)
            clusters = Clusters.of(rows, CODEWORDS)
            lost = float(clusters.residual(rows).square().sum() / rows.square().sum())
            told[name] = {"error": lost, **accuracy}
            panel.scatter(*rows[:, :2].T, s=3, alpha=0.35, color=METHODS["kmeans"].colour, lw=0)
            panel.scatter(*clusters.means(rows)[:, :2].T, s=60, marker="x", color=METHODS["dense"].colour, lw=1.4)
            panel.set_title(f"{name}: k-means loses {100 * lost:.0f} % of ‖W‖²", fontsize=11)
            panel.set_xlabel("first weight of a row [mean size]")
            panel.set_xlim(-3.5, 3.5)
            panel.set_ylim(-3.5, 3.5)
            panel.grid(alpha=0.25, lw=0.6)
        axes[0, 0].set_ylabel("second weight of a row [mean size]")
    about = {
        "command": "python scripts/draw_methods.py kmeans",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    fields = {"layer": LAYER, "codewords": CODEWORDS, "penalty": PENALTY, "ratio": RATIO, "nets": told}
    write_json(OUT / "kmeans.json", {**about, **fields})
    print(told)


def draw_generations() -> None:
    """Accuracy of each generation, of the dense and of the folded net, and of their ensembles (rings)."""
    found = scores(json.loads((OUT / "generations.json").read_text())["chains"])
    with drawn(OUT / "generations.png", across=2, figsize=(WIDTH, 4.6), sharey=True) as (figure, axes):
        figure.subplots_adjust(left=0.085, right=0.93, bottom=0.13, top=0.76, wspace=0.26)
        figure.suptitle("Born-again networks on 2,500 images of CIFAR-10", x=0.02, ha="left")
        about = "lines: means of the seeds; small points: single seeds; rings: ensembles of generations 1 to 2, 1 to 3"
        figure.text(0.02, 0.87, about, fontsize=9.5, color="#555555")
        for panel, (regime, title) in zip(axes[0], REGIMES.items(), strict=True):
            ends = [_draw_chain(panel, found, Member(regime, net, "ban", False, "")) for net in ("dense", "folded")]
            panel.set_title(title, fontsize=11)
            panel.set_xticks(range(4))
            panel.set_xlim(-0.2, 3.15)
            panel.grid(alpha=0.25, lw=0.6)
            panel.set_xlabel("generation (0 learns from labels)")
            label_ends(panel, ends, 10)
        axes[0, 0].set_ylabel("test accuracy [%]")


def _draw_chain(panel: Any, found: Mapping[Member, list[float]], chain: Member) -> End:
    """Draw three generations and their ensembles; returns the end of the line."""
    style = METHODS[chain.net]
    single = [found[chain._replace(name=f"generation {k}")] for k in range(4)]
    several = [(k, mean(found[chain._replace(name=f"ensemble of {k}")])) for k in (2, 3)]
    means = [mean(points) for points in single]
    for k, points in enumerate(single):
        panel.scatter([k] * len(points), points, s=9, color=style.colour, alpha=0.5, lw=0)
    panel.plot(range(4), means, marker=style.marker, ms=5, lw=1.6, color=style.colour)
    panel.scatter(*zip(*several, strict=True), s=75, facecolors="none", edgecolors=style.colour, zorder=3)
    return End(chain.net, 3, means[-1], for_text(style.colour))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for draw in (draw_strassen, draw_kmeans, draw_generations):
        if len(sys.argv) == 1 or sys.argv[1] in draw.__name__:
            draw()
