"""From a trained net to a compressed one, measured: `python scripts/measure_from_pretrained.py DATA_ROOT [NET …]`.

For each seed, a dense net is trained. For each ratio it is converted with a warm start, tested as it is and with
renewed statistics of batch norms, and trained by recipe/from_pretrained for several numbers of epochs. A net of the
same size that starts at random is trained for the longest of them. Results go to results/from_pretrained/NET.json.
MNIST needs DATA_ROOT, digits ignore it.
"""

import argparse
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from autosample import data as sets
from autosample import renew_norms_
from autosample.experiments.trainer import NOISY, deterministic_on_cpu, trainer_for
from autosample.system.configs import read
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.quiet import quiet
from autosample.training import Classifier

ROOT = Path(__file__).resolve().parent.parent
# epochs of the dense net, and epochs after which compressed nets are tested
NETS = {"digits": (20, (1, 5, 20)), "mnist": (3, (1, 3))}
RATIOS, SEEDS = (2, 4, 8), (0, 1, 2)


def accuracy(model: pl.LightningModule, data: pl.LightningDataModule, epochs: int) -> float:
    """Accuracy on the test set after some epochs of training [%]."""
    with quiet(*NOISY), deterministic_on_cpu():
        trainer = trainer_for(max(epochs, 1), logger=False)
        if epochs:
            trainer.fit(model, datamodule=data)
        return 100 * trainer.test(model, datamodule=data, verbose=False)[0]["test/acc"]


def measured(name: str, root: str, threads: int) -> dict[str, Any]:
    """The record of a net."""
    config, recipe = read(f"experiment/{name}"), read("recipe/from_pretrained")["model"]
    options = {**config["data"]["init_args"], **({"root": root} if "root" in config["data"]["init_args"] else {})}
    model = {key: value for key, value in config["model"].items() if key not in ("spec", "ratio")}
    (dense_epochs, steps), rows = NETS[name], []

    def run(epochs: int, seed: int, **changes: Any) -> tuple[float, Classifier]:
        pl.seed_everything(seed, verbose=False)
        net = Classifier(**{**model, **changes, "seed": seed})
        data = getattr(sets, config["data"]["class_path"])(**options)
        return accuracy(net, data, epochs), net

    for seed in SEEDS:
        reached, dense = run(dense_epochs, seed, spec="dense")
        rows.append({"seed": seed, "method": "dense", "epochs": dense_epochs, "accuracy": reached})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "dense.safetensors"
            save_file({key: t.contiguous() for key, t in dense.net.state_dict().items()}, file)
            start = {**recipe, "model_args": {"checkpoint_path": str(file)}}
            arms = [("recipe", epochs, start) for epochs in (0, *steps)] + [("random start", steps[-1], {})]
            for ratio in RATIOS:
                for arm, epochs, changes in arms:
                    reached, net = run(epochs, seed, spec="autosample", ratio=ratio, **changes)
                    row = {"seed": seed, "method": "autosample", "ratio": ratio, "start": arm, "epochs": epochs,
                           "accuracy": reached, "net_ratio": net.size_report().ratio}  # fmt: skip
                    rows.append(row)
                    if not epochs and any(isinstance(m, _BatchNorm) for m in net.modules()):
                        data = getattr(sets, config["data"]["class_path"])(**options)
                        data.setup("fit")
                        renew_norms_(net.net, data.train_dataloader())
                        rows.append({**row, "start": "renewed", "accuracy": accuracy(net, data, 0)})
                    print(*rows[-1].values(), flush=True)
    return {
        "command": f"python scripts/measure_from_pretrained.py DATA_ROOT {name}",
        "net": model["model"],
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "threads": threads,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of the data")
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"which of {', '.join(NETS)} (all)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.nets:
        write_json(ROOT / "results/from_pretrained" / f"{name}.json", measured(name, args.root, args.threads))


if __name__ == "__main__":
    main()
