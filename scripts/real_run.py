"""The recipes at full length of their path, cut short by flags alone: `python scripts/real_run.py OUT DATA_ROOT`.

Parts, each with a record in results/real-run from which docs/real-run.md gets its tables:

* `pictures`: 20,160 drawn pictures in 64 classes, as folders, tar files and shards;
* `resumed`: the ResNet-50 recipe on them, killed within an epoch and resumed, against a run without a break;
* `processes`: the recipe in two gloo processes against one;
* `cifar10`: CIFAR-10 through the recipe at 32 px (DATA_ROOT/cifar10/train and test, one folder for each class);
* `esc10-…`: ESC-10 through the recipe of ESC-50, five folds (DATA_ROOT/ESC-10), with three specs;
* `memory`: the workers' memory over an epoch of the drawn pictures.

A part that has a record is left out, so the script goes on where it was stopped; remove records to measure again.
`--small` takes 200 pictures and a few steps, to try the script; its records go to OUT/results.
"""

import argparse
from functools import partial
from pathlib import Path

from realrun import pictures, training
from realrun.running import RESULTS, Place

PARTS = {
    "pictures": pictures.draw,
    "resumed": training.resumed,
    "processes": training.processes,
    "cifar10": training.cifar10,
    **{f"esc10-{spec}": partial(training.esc10, spec) for spec in training.OVERLAYS},
    "memory": pictures.flat_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the drawn set and of all runs")
    parser.add_argument("data", type=Path, help="folder with cifar10 and ESC-10")
    # the drawn set comes first: others need it
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="which parts (all)")
    parser.add_argument("--small", action="store_true", help="try the script")
    given = parser.parse_args()
    out, data = given.out.absolute(), given.data.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results" if given.small else RESULTS
    for part in given.parts:
        if not (results / f"{part}.json").exists():
            place = Place(out, data, given.small, results)
            place.write(part, PARTS[part](place))
            print(f"{part}: {results / part}.json", flush=True)


if __name__ == "__main__":
    main()
