"""Who holds which block: reference counts, sharing of equal prefixes, and what to forget first.

A block is room for 32 positions of one sequence in all layers. One that is full may be published under the digest of
all tokens up to its end; whoever needs the same prefix then holds the same block instead of computing it. A block that
nobody holds keeps its digest until its room is needed, the longest unused first.

Invariants (`check_integrity`): every block is held, or cached and free, or empty; a digest names one block; only full
blocks have digests, and nobody writes to these. Digests are keyed with bytes drawn for each pool and begin at the
request's salt, so that no prompt can be made to collide with another's, and one salt's prefixes are not found with
another.

Knows neither requests nor tensors: `engine.cache` has the memory of each block.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 32


def blocks_for(num_tokens: int) -> int:
    """Blocks that hold so many positions."""
    return -(-num_tokens // BLOCK_TOKENS)


class BlockPool:
    """`capacity` blocks, numbered from 0. A number is used for the first time only when no lower one will do."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._key = secrets.token_bytes(32)
        self._num_used = 0  # blocks from here on were never taken
        self._empty: list[int] = []
        self._cached: OrderedDict[int, None] = OrderedDict()  # free with a digest, the longest unused first
        self._holders: dict[int, int] = {}
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self.capacity - len(self._holders)

    @property
    def num_cached(self) -> int:
        """Those of them that still hold a prefix."""
        return len(self._cached)

    def can_allocate(self, count: int) -> bool:
        return count <= self.num_free

    def allocate(self, count: int) -> list[int]:
        """Hold `count` blocks with anything in them; `can_allocate` says whether there are so many."""
        assert self.can_allocate(count), f"{count} blocks of {self.num_free}"
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._empty:
            block = self._empty.pop()
        elif self._num_used < self.capacity:
            block = self._num_used
            self._num_used += 1
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._holders[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Hold them once less. Of a prefix the end is forgotten before the beginning, which more requests share."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._empty.append(block)

    # ---- Sharing ----------------------------------------------------------------------------------------------

    def digest(self, parent: bytes | str, token_ids: Sequence[int]) -> bytes:
        """Names the prefix that goes on after `parent` with a block's tokens; for the first block that is the salt."""
        is_first = isinstance(parent, str)
        digest = hashlib.blake2b(key=self._key, digest_size=32, person=b"salt" if is_first else b"prefix")
        parent = parent.encode("utf-8", "surrogatepass") if is_first else parent
        digest.update(struct.pack("<Q", len(parent)) + parent)
        digest.update(struct.pack(f"<{len(token_ids)}I", *token_ids))
        return digest.digest()

    def cached_prefix(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest published prefix, which the caller does not hold yet (`share`)."""
        blocks = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_free_without(self, blocks: Iterable[int]) -> int:
        """Blocks that could be allocated if `blocks` were held."""
        return self.num_free - sum(block not in self._holders for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Hold published blocks once more."""
        for block in blocks:
            assert block in self._digest_of
            self._cached.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def publish(self, block: int, digest: bytes) -> None:
        """Let others find a full block that the caller holds and never writes to again; of equal ones, the first."""
        assert block in self._holders
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def is_published(self, digest: bytes) -> bool:
        return digest in self._block_of

    def check_integrity(self, held: Iterable[int] | None = None) -> None:
        """Raise AssertionError where an invariant is broken; `held` are the blocks of all holders, one by one."""
        used = set(range(self._num_used))
        empty, cached, taken = set(self._empty), set(self._cached), set(self._holders)
        assert len(empty) == len(self._empty), "a block is empty twice"
        assert empty | cached | taken == used, "a block is lost"
        assert len(empty) + len(cached) + len(taken) == len(used) <= self.capacity, "a block has two states"
        assert all(count > 0 for count in self._holders.values()), "nobody holds a held block"
        assert {block: digest for digest, block in self._block_of.items()} == self._digest_of, "digests disagree"
        assert cached <= set(self._digest_of), "a cached block has no digest"
        assert not empty & set(self._digest_of), "an empty block has a digest"
        if held is not None:
            assert Counter(held) == self._holders, "holders and counts disagree"
