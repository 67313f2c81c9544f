"""A two-node Ray cluster on this machine, one node killed midway: nothing is lost. Skipped where Ray is missing."""

import threading
import time

import pytest

from autosample.errors import MissingExtra
from autosample.experiments import ray_runner
from autosample.experiments.ablate import run_grid
from autosample.experiments.record import records_in


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'autosample\[ray\]'"):
        ray_runner.ray_runner(None, 1)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else runs here is no reason to kill tasks
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # the driver's node has no processor to give, so all work is on the two that are added
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    nodes = [made.add_node(num_cpus=1, num_gpus=0) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_node_is_killed_and_nothing_is_lost(tmp_path, grid, cluster):
    from rich.console import Console

    made, (kept, lost) = cluster
    wanted = grid(seeds=4, train={"epochs": 2})
    records = tmp_path / "records"

    def kill() -> None:
        while not (records.exists() and len(list(records.glob("*.json"))) >= 2):
            time.sleep(0.05)
        made.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    done = run_grid(wanted, tmp_path, ray_runner.ray_runner(None, 1), Console(quiet=True))
    killer.join()
    assert lost not in made.worker_nodes
    assert kept in made.worker_nodes
    assert set(done) == {cell.id for cell in wanted.cells}
    assert len(list(records_in(records))) == 8
    assert not (tmp_path / "failed").exists()
