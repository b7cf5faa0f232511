"""Which replica gets a request: the one that has read the longest part of its prompt, unless that one is busy.

A replica's prefix cache answers for the prompts that it has read, so a conversation is cheap where it was before and
dear elsewhere. The router keeps no prompts, only hashes of their beginnings. It does not know formats of requests.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

_BLOCK_CHARS, _MAX_BLOCKS = 256, 256
_KEY = secrets.token_bytes(16)
# What comes before the conversation in a prompt, and then the conversation, by its names in all formats.
_HEAD, _BODY = ("cache_salt", "tools", "system", "instructions"), ("messages", "input", "prompt")


def prefix_keys(body: bytes) -> tuple[bytes, ...]:
    """A key for each block of the prompt that a request's JSON body asks for, each of which stands for all text up to
    there. Empty for a short prompt, and for what is no request for one."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return ()  # the application says what is wrong with it
    if not isinstance(request, Mapping):
        return ()
    text = json.dumps([*(request.get(name) for name in _HEAD), *(request[name] for name in _BODY if name in request)])
    keys: list[bytes] = []
    for end in range(_BLOCK_CHARS, min(len(text), _BLOCK_CHARS * _MAX_BLOCKS) + 1, _BLOCK_CHARS):
        block = text[end - _BLOCK_CHARS : end].encode()
        parent = keys[-1] if keys else b""
        keys.append(hashlib.blake2b(parent + block, digest_size=16, key=_KEY).digest())
    return tuple(keys)


class PrefixRouter(RequestRouter):
    """Ray Serve's request router for calls whose first argument has `prefix_keys`."""

    def initialize_state(self, max_lead: int = 4, max_keys: int = 200_000) -> None:
        """A replica is busy when it has `max_lead` more requests than the least busy one. `max_keys` are remembered,
        those that were met last."""
        self._max_lead, self._max_keys = max_lead, max_keys
        self._homes: OrderedDict[bytes, ReplicaID] = OrderedDict()
        self._num_given: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas in ranks: those of a later rank are tried where those of an earlier one are full."""
        if pending_request is not None:
            # Ray's sign that these are all: it then waits before it asks again.
            pending_request.routing_context.should_backoff = True
        # Of equally long queues Ray takes the first, so new conversations go around.
        everyone = sorted(candidate_replicas, key=lambda replica: self._num_given[replica.replica_id])
        home = self._home(_keys_of(pending_request), everyone)
        return [everyone] if home is None else [[home], everyone]

    def _home(self, keys: Sequence[bytes], replicas: Sequence[RunningReplica]) -> RunningReplica | None:
        by_id = {replica.replica_id: replica for replica in replicas}
        queues = {id: self.replica_queue_len_cache.get(id) or 0 for id in by_id}
        for key in reversed(keys):
            id = self._homes.get(key)
            if id in by_id:
                return by_id[id] if queues[id] - min(queues.values()) < self._max_lead else None
        return None

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        self._num_given[replica_id] += 1
        for key in _keys_of(pending_request):
            self._homes[key] = replica_id
            self._homes.move_to_end(key)
        while len(self._homes) > self._max_keys:
            self._homes.popitem(last=False)


def _keys_of(request: PendingRequest | None) -> Sequence[bytes]:
    return request.args[0].prefix_keys if request is not None and request.args else ()
