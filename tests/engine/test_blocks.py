"""Block pool: sharing by content, what is forgotten first, and prefixes that nobody else can find or forge."""

import pytest

from qwen3.engine.blocks import BLOCK_TOKENS, BlockPool, blocks_for


def chain(pool, num_blocks, salt="", first_token=0):
    digests, parent = [], salt
    for index in range(num_blocks):
        parent = pool.digest(parent, range(first_token + index, first_token + index + BLOCK_TOKENS))
        digests.append(parent)
    return digests


def filled(pool, num_blocks, **options):
    """Digests of a prefix that is cached and that nobody holds."""
    digests = chain(pool, num_blocks, **options)
    blocks = pool.allocate(num_blocks)
    for block, digest in zip(blocks, digests, strict=True):
        pool.publish(block, digest)
    pool.release(blocks)
    return digests


def test_blocks_hold_32_positions():
    assert [blocks_for(count) for count in (0, 1, 32, 33)] == [0, 1, 1, 2]


def test_a_published_prefix_is_found_up_to_its_first_gap():
    pool = BlockPool(8)
    digests = filled(pool, 3)
    assert len(pool.cached_prefix(digests)) == 3
    assert len(pool.cached_prefix([*digests[:2], *chain(pool, 1, "other")])) == 2
    assert pool.cached_prefix(digests[1:]) == pool.cached_prefix(digests)[1:] or pool.cached_prefix([b"?"]) == []


def test_a_shared_block_is_free_when_its_last_holder_has_gone():
    pool = BlockPool(4)
    digests = filled(pool, 2)
    blocks = pool.cached_prefix(digests)
    pool.share(blocks)
    pool.share(blocks)
    pool.release(blocks)
    assert (pool.num_free, pool.num_cached) == (2, 0)
    pool.release(blocks)
    assert (pool.num_free, pool.num_cached) == (4, 2)
    pool.check_integrity(held=[])


def test_the_longest_unused_prefix_is_forgotten_first_and_from_its_end():
    pool = BlockPool(4)
    old, new = filled(pool, 2), filled(pool, 2, first_token=100)
    pool.share(pool.cached_prefix(old))  # used again, so the other one is older now
    pool.release(pool.cached_prefix(old))
    taken = pool.allocate(1)
    assert (len(pool.cached_prefix(old)), len(pool.cached_prefix(new))) == (2, 1)
    taken += pool.allocate(1)
    assert (len(pool.cached_prefix(old)), len(pool.cached_prefix(new))) == (2, 0)
    taken += pool.allocate(1)
    assert len(pool.cached_prefix(old)) == 1
    pool.check_integrity(held=taken)


def test_a_held_prefix_is_never_forgotten():
    pool = BlockPool(3)
    digests = filled(pool, 2)
    held = pool.cached_prefix(digests)
    pool.share(held)
    assert pool.num_free_without([]) == pool.num_free == 1
    pool.allocate(1)
    assert not pool.can_allocate(1)
    assert pool.cached_prefix(digests) == held


def test_cached_blocks_count_as_free_unless_they_are_the_ones_to_be_held():
    pool = BlockPool(3)
    digests = filled(pool, 2)
    assert pool.num_free == 3
    assert pool.num_free_without(pool.cached_prefix(digests)) == 1


def test_of_two_that_computed_the_same_one_is_found_and_the_other_is_empty_afterwards():
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    (digest,) = chain(pool, 1)
    pool.publish(first, digest)
    pool.publish(second, digest)
    assert pool.cached_prefix([digest]) == [first]
    pool.release([first])
    pool.release([second])
    assert pool.num_cached == 1
    pool.check_integrity(held=[])


def test_digests_depend_on_tokens_parent_salt_and_a_key_of_the_process():
    pool = BlockPool(1)
    tokens = list(range(BLOCK_TOKENS))
    root = pool.digest("", tokens)
    different = [
        pool.digest("a", tokens),
        pool.digest("", tokens[::-1]),
        pool.digest(root, tokens),
        pool.digest(root.decode("latin-1"), tokens),  # a salt that looks like a parent
        BlockPool(1).digest("", tokens),
    ]
    assert len({root, *different}) == 6
    assert root == pool.digest("", tokens)


def test_the_memory_of_blocks_grows_only_when_no_other_is_empty():
    pool = BlockPool(2**40)
    for _ in range(5):
        blocks = pool.allocate(3)
        assert sorted(blocks) == [0, 1, 2]
        pool.release(blocks)


@pytest.mark.parametrize("count", [5, 4])
def test_more_than_there_is_cannot_be_allocated(count):
    pool = BlockPool(4)
    held = pool.allocate(1)
    assert not pool.can_allocate(count)
    assert pool.can_allocate(3)
    pool.release(held)
