import subprocess
import sys

HEAVY = (
    "pytorch_lightning",
    "lightning",
    "timm",
    "torchvision",
    "torchmetrics",
    "wandb",
    "matplotlib",
    "rich",
    "jsonargparse",
    "scipy",
    "ray",
)


def test_importing_the_library_leaves_training_and_plotting_alone():
    code = f"import sys, autosample; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
