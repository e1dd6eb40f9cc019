"""The order in which what waits leaves an HTTP process: fair between models, between requests, and to the urgent.

A lane holds what waits for one model at one priority. Lanes take turns by the block; inside a lane requests take turns
by the ticket, so that neither a flood for one model nor one request of a thousand images keeps a single image waiting.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from service.engine.messages import Answer
from service.engine.served_models import Key


class Part(NamedTuple):
    """One ticket's share of a block's answer: images `start` to `start + size`."""

    answer: Answer
    start: int
    size: int


class Client(Protocol):
    """Who waits for an answer."""

    @property
    def disconnected(self) -> bool: ...


class Ticket:
    """Inputs of one request that travel together; `next` are those that travel after them."""

    __slots__ = ("attempts", "client", "data", "deadline", "future", "next", "size", "submitted")

    def __init__(self, data: bytes, size: int, deadline: float, client: Client, future: asyncio.Future[Part]) -> None:
        self.submitted = time.monotonic()
        self.data = data
        self.size = size
        self.deadline = deadline
        self.client = client
        self.future = future
        self.next: Ticket | None = None
        self.attempts = 0


class Lane:
    """What waits for the model `key`; what is `bulk` yields to what is not."""

    def __init__(self, key: Key, *, bulk: bool) -> None:
        self.key = key
        self.bulk = bulk
        self._tickets: collections.deque[Ticket] = collections.deque()
        self.size = 0
        """Inputs that could leave now, without those that travel after them."""

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def add(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        self.size += ticket.size

    def put_back(self, ticket: Ticket) -> None:
        """Return a ticket that had left, to leave first."""
        self._tickets.appendleft(ticket)
        self.size += ticket.size

    def tickets(self) -> Iterator[Ticket]:
        """Everything that waits, with what travels after it."""
        for ticket in self._tickets:
            following: Ticket | None = ticket
            while following:
                yield following
                following = following.next

    def take(self, max_size: int, is_wanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """The next tickets, of at most `max_size` inputs together, without those that nobody waits for."""
        tickets = self._tickets
        taken: list[Ticket] = []
        while tickets and max_size >= tickets[0].size:
            ticket = tickets.popleft()
            self.size -= ticket.size
            if ticket.next:
                self.add(ticket.next)
                ticket.next = None
            if is_wanted(ticket):
                taken.append(ticket)
                max_size -= ticket.size
        return taken

    def keep(self, is_wanted: Callable[[Ticket], bool]) -> None:
        """Drop what nobody waits for."""
        self._tickets = collections.deque(filter(is_wanted, self._tickets))
        self.size = sum(ticket.size for ticket in self._tickets)


class Lanes:
    """All lanes of one HTTP process that hold something, the one whose turn it is first."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Key, bool], Lane] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def lane(self, key: Key, *, bulk: bool) -> Lane:
        """The lane to add to."""
        lane = self._lanes.get((key, bulk))
        if lane is None:
            lane = self._lanes[key, bulk] = Lane(key, bulk=bulk)
        return lane

    def in_turn(self) -> list[Lane]:
        """The lanes in the order in which they may send a block: the urgent first, then who waited longest."""
        return sorted(self._lanes.values(), key=lambda lane: lane.bulk)

    def had_turn(self, lane: Lane) -> None:
        """Put a lane that sent a block behind the others, or away if it is empty."""
        place = (lane.key, lane.bulk)
        del self._lanes[place]
        if lane:
            self._lanes[place] = lane

    def keep(self, is_wanted: Callable[[Ticket], bool]) -> None:
        """Drop what nobody waits for, in every lane."""
        for place, lane in list(self._lanes.items()):
            lane.keep(is_wanted)
            if not lane:
                del self._lanes[place]

    def remove(self, is_void: Callable[[Key], bool]) -> list[Ticket]:
        """Take away the lanes of some models, and give what waited in them."""
        void = [place for place in self._lanes if is_void(place[0])]
        return [ticket for place in void for ticket in self._lanes.pop(place).tickets()]
