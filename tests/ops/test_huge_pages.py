"""Memory for weights and for pages of a cache."""

import resource
from pathlib import Path

import pytest

from qwen3.ops.huge_pages import empty_bytes
from qwen3.ops.paged import PageLayout

STATM = Path("/proc/self/statm")


def test_small_pieces_lie_side_by_side():
    first, second = next(
        (a, b)
        for a, b in ((empty_bytes(3, 100), empty_bytes(7)) for _ in range(2))  # an allocation may end between two
        if a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    )
    assert first.shape == (3, 100)
    assert second.data_ptr() == first.data_ptr() + 320


@pytest.mark.parametrize("size", [1, 63, 64, 1 << 20, 40 << 20])
def test_pieces_are_aligned_and_their_own(size):
    pieces = [empty_bytes(size) for _ in range(3)]
    for number, piece in enumerate(pieces):
        piece.fill_(number)
    assert [(piece.data_ptr() % 64, piece[0].item(), piece[-1].item()) for piece in pieces] == [
        (0, number, number) for number in range(3)
    ]


def resident() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not STATM.exists(), reason="there is no /proc to read the process's memory from")
def test_memory_goes_with_the_last_of_its_pieces():
    pieces = [empty_bytes(20 << 20).fill_(1) for _ in range(9)]  # three in an allocation
    full = resident()
    del pieces[::3]
    half = resident()
    del pieces
    assert full - half < 100 << 20 < full - resident()


def test_pages_of_a_cache_lie_side_by_side_and_apart_from_others():
    layouts = [PageLayout("int8", 28, 8, 128) for _ in range(2)]
    pages = [[layout.new_page() for _ in range(30)] for layout in layouts]
    storages = [{page.untyped_storage().data_ptr() for page in each} for each in pages]
    assert all(1 <= len(each) <= 2 for each in storages)
    assert not storages[0] & storages[1]
    assert empty_bytes(7).untyped_storage().data_ptr() not in storages[0] | storages[1]


@pytest.mark.skipif(not STATM.exists(), reason="there is no /proc to read the process's memory from")
def test_a_cache_costs_what_was_written_and_is_given_back():
    layout = PageLayout("int8", 28, 8, 128)
    before = resident()
    pages = [layout.new_page().fill_(1) for _ in range(20)]
    size = 20 * layout.page_bytes
    assert resident() - before < size + (4 << 20)
    del pages, layout
    assert resident() - before < 4 << 20
