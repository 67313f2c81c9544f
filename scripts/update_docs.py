"""Fills in the tables of README.md and docs/ from results/: `python scripts/update_docs.py [--check]`.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is replaced; a missing second marker is added. With `--check` nothing
is written, and the exit code is 1 if a file would change. The modules in scripts/doctables make the tables.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping

from doctables import accuracy, methods, planes, real_run, records, scaling, speed


def example() -> str:
    """The Python example, run now, with its output."""
    path = records.ROOT / "scripts" / "example.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    return f"```python\n{path.read_text().rstrip()}\n```\n\nprints\n\n```\n{done.stdout.rstrip()}\n```"


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {
        "quickstart": accuracy.quickstart_line,
        "example": example,
        "results": accuracy.highlights,
        "speed": speed.speed_highlights,
    },
    "docs/results.md": {"summary": accuracy.summary, "planes": planes.planes},
    "docs/ablations.md": {"ablations": accuracy.ablations},
    "docs/from-pretrained.md": {"from_pretrained": accuracy.from_pretrained_table},
    "docs/quantisation.md": {"quantised": accuracy.quantised_table},
    "docs/command-line.md": {
        "quickstart:table": accuracy.quickstart_table,
        "quickstart:figure": accuracy.quickstart_figure,
    },
    "docs/speed.md": {"reuse": speed.reuse_table, "growth": speed.growth_figure, "steps": speed.steps_table},
    "docs/deep-k-means.md": {"kmeans": methods.kmeans_text, "clustered": methods.clustered_table},
    "docs/born-again.md": {"generations": methods.generations_tables},
    "docs/strassen.md": {"strassen": methods.strassen_table},
    "docs/data.md": {"input": speed.input_table},
    "docs/runtimes.md": {"runtimes": speed.runtimes_table},
    "docs/real-run.md": {
        "pictures": real_run.pictures,
        "resumed": real_run.resumed,
        "processes": real_run.processes,
        "cifar10": real_run.cifar10,
        "esc10": real_run.esc10,
        "memory": real_run.memory,
    },
    "docs/scaling.md": {"allreduce": scaling.allreduce_table, "scaling": scaling.scaling_table},
}


def filled(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A document with its generated parts replaced."""
    for name, make in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        tail = rest.partition(end)[2] if end in rest else rest
        text = f"{head}{start}\n{make()}\n{end}{tail}"
    return text


def main() -> int:
    stale = 0
    for name, parts in PARTS.items():
        path = records.ROOT / name
        before = path.read_text()
        text = filled(before, parts)
        stale += text != before
        if "--check" not in sys.argv:
            path.write_text(text)
    return int(stale > 0 and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
