"""Make tf2onnx give the same bytes each time: it names and orders things by addresses in memory."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from tf2onnx import graph, tf_loader, tfonnx, utils
from tf2onnx.optimizer import einsum_optimizer

__all__ = ["steady_tf2onnx"]


@contextlib.contextmanager
def steady_tf2onnx(*, keep_pads: bool) -> Iterator[None]:
    """Patch tf2onnx while it converts one model.

    Args:
        keep_pads: Leave a padding layer its own node instead of making it an attribute of the convolution after it.
    """
    serial = itertools.count(1)
    seen: dict[int, tuple[int, object]] = {}
    optimize = tf_loader.tf_optimize

    def stable_id(thing: object) -> int:
        # The pieces of an Einsum are named after it. Keeping `thing` keeps its address taken.
        if id(thing) not in seen:
            seen[id(thing)] = (next(serial), thing)
        return seen[id(thing)][0]

    def stable_hash(node: Any) -> int:
        # Nodes are kept in sets, whose order would follow addresses too.
        number: int = vars(node).setdefault("onnxscope_serial", next(serial))
        return number

    def ordered_optimize(*arguments: Any) -> Any:
        return _order_nodes(optimize(*arguments))

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it logs what it then works around
    utils.INTERNAL_NAME = 1
    with contextlib.ExitStack() as stack:
        _replace(stack, graph.Node, "__hash__", stable_hash)
        _replace(stack, tf_loader, "tf_optimize", ordered_optimize)
        einsum_optimizer.id = stable_id  # hides the built-in one from that module
        stack.callback(delattr, einsum_optimizer, "id")
        if keep_pads:
            _replace(stack, tfonnx, "rewrite_conv2d_with_pad", lambda _, nodes: nodes)
        yield


def _replace(stack: contextlib.ExitStack, holder: Any, name: str, value: Callable[..., Any]) -> None:
    stack.callback(setattr, holder, name, getattr(holder, name))
    setattr(holder, name, value)


def _order_nodes(definition: Any) -> Any:
    """Sort a GraphDef's nodes: inputs before their readers, else by name. Freezing leaves them in a random order."""
    nodes = {node.name: node for node in definition.node}
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    waiting: dict[str, int] = {}
    for name, node in nodes.items():
        sources = {source.lstrip("^").partition(":")[0] for source in node.input} & nodes.keys()
        waiting[name] = len(sources)
        for source in sources:
            readers[source].append(name)
    ready = [name for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: dict[str, None] = {}
    while ready:
        name = heapq.heappop(ready)
        order[name] = None
        for reader in readers[name]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    order.update(dict.fromkeys(sorted(nodes.keys() - order.keys())))  # the loops of TensorFlow 1 are cycles
    ordered = type(definition)()
    ordered.CopyFrom(definition)
    del ordered.node[:], ordered.library.function[:]
    ordered.node.extend(nodes[name] for name in order)
    ordered.library.function.extend(sorted(definition.library.function, key=lambda f: str(f.signature.name)))
    return ordered
