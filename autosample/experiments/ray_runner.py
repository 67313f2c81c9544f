"""The cells of a grid as Ray tasks: on many machines, or on a local cluster. It needs `autosample[ray]`."""

import os
import time
from typing import Any

from autosample.errors import ConfigError, one_line
from autosample.experiments.ablate import Runner
from autosample.experiments.attempt import attempt, pack_cell, pack_outcome, unpack_cell, unpack_outcome
from autosample.experiments.grid import Cell
from autosample.experiments.pool import Tell
from autosample.experiments.store import Failure, Queue
from autosample.system.extras import require

# how often a task is started again after its worker or its node is lost
_RETRIES = 5
_PATIENCE = 2.0  # seconds between two looks for cells that another runner has


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns
    require("ray", "ray")
    import ray  # pyright: ignore[reportMissingImports]

    return ray


def ray_runner(address: str | None, threads: int, wandb: dict[str, str] | None = None) -> Runner:
    """A runner for a Ray cluster. Every node needs autosample, and the data at the same path.

    Args:
        address: Address of the cluster, or `auto` for the one of this machine; `None` starts a local one.
        threads: CPUs and threads per task.
        wandb: As for `attempt`.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    ray = _import_ray()

    def run(queue: Queue, tell: Tell) -> None:
        ours = not ray.is_initialized()
        if ours:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"Ray cannot reach a cluster ({one_line(error)[:200]}): check --ray") from error
        try:
            _run_tasks(ray, queue, tell, threads, wandb)
        finally:
            if ours:
                ray.shutdown()

    return run


def _run_tasks(ray: Any, queue: Queue, tell: Tell, threads: int, wandb: dict[str, str] | None) -> None:
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # a task has no side effects, so Ray may start it again elsewhere when a node is lost
    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=_RETRIES)(_remote_attempt)
    tasks: dict[Any, Cell] = {}
    while not queue.done:
        # submit all cells at once: Ray queues those that do not fit yet
        while (cell := queue.take()) is not None:
            tasks[task.remote(pack_cell(cell), threads, wandb)] = cell
            tell("start", cell)
        if not tasks:
            time.sleep(0 if queue.done else _PATIENCE)
            continue
        ready, _ = ray.wait(list(tasks), num_returns=1, timeout=_PATIENCE)
        for reference in ready:
            cell = tasks.pop(reference)
            queue.settle(cell, _outcome(ray, reference))
            tell("end", cell)


def _outcome(ray: Any, reference: Any) -> Any:
    try:
        return unpack_outcome(ray.get(reference))
    except ray.exceptions.RayError as error:  # the worker was lost too often
        return Failure(type(error).__name__, one_line(error)[:1000], [])


def _remote_attempt(cell: dict[str, Any], threads: int, wandb: dict[str, str] | None) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    return pack_outcome(attempt(unpack_cell(cell), wandb=wandb))
