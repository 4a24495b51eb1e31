"""Workers on a Ray cluster: actors on its nodes, each of which does one run at a time.

Ray starts processes on other machines and carries short messages, no more: a run travels as its description in bytes,
its inputs and its outcome go through the store, which all nodes see. So whatever Ray loses - a worker, a node, its head
- what is finished is kept, and the same command does the rest.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from tombola.lab import pool
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.queue import Announce, Tally
from tombola.lab.ray_cluster.actors import Actors
from tombola.lab.ray_cluster.cluster import Cluster, asked, connected, package
from tombola.lab.ray_cluster.need import Need, offer_of
from tombola.lab.ray_cluster.nodes import look_at_nodes
from tombola.lab.runs import Run


def offer(resources: Resources) -> Offer:
    """What the cluster has; a local one is not started for it."""
    need = Need.of(resources)
    if not asked(resources):
        package()
        return offer_of([_local(resources)], need, resources.workers, "On Ray on this machine")
    with connected(resources) as cluster:
        return _offered(cluster, resources)


def _local(resources: Resources) -> dict[str, float]:
    gpus = sum(device != "cpu" for device in resources.devices)
    return {"CPU": float(resources.processes), **({"GPU": float(gpus)} if gpus else {})}


def _offered(cluster: Cluster, resources: Resources) -> Offer:
    nodes = [node["Resources"] for node in cluster.nodes]
    return offer_of(nodes, Need.of(resources), resources.workers, f"On {cluster.where}")


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    need = Need.of(resources)
    resources = replace(resources, store=resources.store.absolute())
    with connected(resources) as cluster:
        _offered(cluster, resources)  # before anything is waited for
        look_at_nodes(cluster, resources.store.open())
        found = _offered(cluster, resources)  # by the nodes that have answered
        yield Team(found, partial(_execute, cluster, need, resources, found))


def _execute(
    cluster: Cluster, need: Need, resources: Resources, offered: Offer, runs: Iterable[Run], tell: Announce
) -> Tally:
    return pool.execute(partial(Actors, cluster, need), resources, offered, runs, tell)


RAY = Executor(
    name="ray",
    about="Workers on the nodes of a Ray cluster, or on one of this machine's own",
    applies=lambda: False,
    offer=offer,
    team=_team,
    options={
        "cpus": "cores of a worker, by default 1",
        "gpus": "GPUs of a worker, by default 0, or 1 where this machine has one; 0.25 lets four share one",
        "resource": "NAME or NAME:COUNT, what else a worker takes of its node",
    },
)
