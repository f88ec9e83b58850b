"""One-to-one matching of the boundary pixels of two maps within a distance: many pairs first, then near ones.

Next in the tour: `metrics/boundary_bsds.py`.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled

_INT = npt.NDArray[np.int64]

#: Costs are whole numbers of hundredths of a pixel; leaving a pixel out costs a hundred times the largest distance.
_COST_PER_PIXEL, _LEFT_OUT = 100, 100
_FAR = np.iinfo(np.int64).max


def match_pixels(
    one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], max_distance_px: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which pixels of each of two maps have a partner in the other, bool (H, W) each, equally many.

    The sum of the partners' distances, in whole hundredths of a pixel, and of 100 times the largest distance for every
    pixel without a partner is the smallest possible one.

    Args:
        one: bool (H, W).
        other: bool (H, W).
        max_distance_px: Partners are at most so far apart, in pixels.

    Source: BSDS500 `bench/source/match.cc` (a04b7c6), the same costs.
    Differs: exact and the same every time. The reference adds random edges of the cost of leaving out, drawn from the
        clock, and its counts vary by some pixels from run to run.
    """
    start, partners, costs = _edges(one, other, max_distance_px)
    left_out = math.ceil(_COST_PER_PIXEL * _LEFT_OUT * max_distance_px)
    num_others = int(np.count_nonzero(other))
    prices = np.zeros(num_others, np.int64)
    owners = np.full(num_others, -1, np.int64)
    chosen = np.full(len(start) - 1, -1, np.int64)
    waiting = _bid(start, partners, costs, left_out, prices, owners, chosen)
    _search(waiting, start, partners, costs, left_out, prices, owners, chosen)
    matched_one, matched_other = np.zeros_like(one), np.zeros_like(other)
    matched_one[one] = chosen >= 0
    matched_other[other] = owners >= 0
    return matched_one, matched_other


def _edges(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], max_distance_px: float) -> tuple[_INT, _INT, _INT]:
    """Return all pairs near enough, by pixel of `one`: each one's begin (N + 1,), partners (E,), costs (E,)."""
    reach = int(max_distance_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    near = dy**2 + dx**2 <= max_distance_px**2
    dy, dx = dy[near], dx[near]
    cost = np.rint(_COST_PER_PIXEL * np.hypot(dy, dx)).astype(np.int64)
    number = np.full((other.shape[0] + 2 * reach, other.shape[1] + 2 * reach), -1, np.int64)
    inner = number[reach : reach + other.shape[0], reach : reach + other.shape[1]]
    inner[other] = np.arange(np.count_nonzero(other))
    place = np.flatnonzero(np.pad(one, reach))
    found = number.ravel()[place[:, None] + (dy * number.shape[1] + dx)]  # (N, offsets)
    is_pair = found >= 0
    start = np.concatenate([[0], np.cumsum(is_pair.sum(axis=1))])
    return start, found[is_pair], np.broadcast_to(cost, found.shape)[is_pair]


# The rest is the shortest augmenting path method of Jonker and Volgenant (Computing 1987) on sparse rows. A partner's
# price is what a row pays on top of the distance; it only rises, and only for partners that have an owner. At the end
# every row has what is cheapest for it at these prices, hence all together have the cheapest.


@compiled
def _bid(
    start: _INT, partners: _INT, costs: _INT, left_out: int, prices: _INT, owners: _INT, chosen: _INT
) -> npt.NDArray[np.int64]:
    """Let rows outbid each other while that is quick; return the rows that wait for an exact search."""
    num_rows = len(start) - 1
    waiting = np.empty(num_rows, np.int64)
    num_waiting, num_bids = 0, 0
    for first in range(num_rows):
        row = first
        while row >= 0:
            best, lowest, second = -1, left_out, left_out
            for edge in range(start[row], start[row + 1]):
                cost = costs[edge] + prices[partners[edge]]
                if cost < lowest:
                    best, lowest, second = edge, cost, lowest
                elif cost < second:
                    second = cost
            if best < 0:  # no partner is worth it
                break
            partner = partners[best]
            loser = owners[partner]
            num_bids += 1
            if loser >= 0 and (lowest == second or num_bids > 4 * num_rows):  # it could go on and on
                waiting[num_waiting] = row
                num_waiting += 1
                break
            prices[partner] += second - lowest
            owners[partner], chosen[row] = row, best
            if loser >= 0:
                chosen[loser] = -1
            row = loser
    return waiting[:num_waiting]


@compiled
def _exchange(
    source: int, end_row: int, end_partner: int, partners: _INT, owners: _INT, chosen: _INT, reached_by: _INT
) -> None:
    """Carry out a chain of exchanges, from its end back to its source."""
    partner = end_partner
    if partner < 0:
        if end_row == source:
            return
        partner = int(partners[chosen[end_row]])
        chosen[end_row] = -1
    row = -1
    while row != source:
        row, edge = reached_by[partner]
        freed = int(partners[chosen[row]]) if chosen[row] >= 0 else -1
        owners[partner], chosen[row] = row, edge
        partner = freed


@compiled
def _search(
    sources: _INT,
    start: _INT,
    partners: _INT,
    costs: _INT,
    left_out: int,
    prices: _INT,
    owners: _INT,
    chosen: _INT,
) -> None:
    """Give each row of `sources` its place: the cheapest chain of exchanges to a free partner or to leaving a row out.

    Dijkstra's search over partners. A search touches a neighbourhood only, and clears up after itself.
    """
    distances = np.full(len(prices), _FAR, np.int64)
    reached_by = np.empty((len(prices), 2), np.int64)  # the row and the edge
    for source in sources:
        end_cost, end_row, end_partner = left_out, source, -1
        heap = [(np.int64(0), np.int64(-1))]  # -1 stands for the source itself
        touched = [np.int64(-1)]
        settled = [(np.int64(0), np.int64(-1))]
        while len(heap):
            distance, partner = heapq.heappop(heap)
            if distance >= end_cost:
                break
            row, paid = source, 0
            if partner >= 0:
                if distance != distances[partner]:  # a shorter way was found since
                    continue
                settled.append((distance, partner))
                row = owners[partner]
                paid = int(distance - costs[chosen[row]] - prices[partner])
            if paid + left_out < end_cost:
                end_cost, end_row, end_partner = paid + left_out, row, -1
            for edge in range(start[row], start[row + 1]):
                partner = partners[edge]
                distance = paid + costs[edge] + prices[partner]
                if distance < distances[partner] and distance < end_cost:
                    distances[partner] = distance
                    reached_by[partner, 0], reached_by[partner, 1] = row, edge
                    touched.append(partner)
                    if owners[partner] < 0:
                        end_cost, end_partner = int(distance), partner
                    else:
                        heapq.heappush(heap, (distance, partner))
        for distance, partner in settled[1:]:
            prices[partner] += end_cost - distance
        for partner in touched[1:]:
            distances[partner] = _FAR
        _exchange(source, end_row, end_partner, partners, owners, chosen, reached_by)
