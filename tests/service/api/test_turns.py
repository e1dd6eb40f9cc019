from __future__ import annotations

import asyncio

from service.api.turns import Turns


def test_requests_of_many_images_have_a_turn_each_time_the_loop_goes_round() -> None:
    def story() -> list[tuple[int, str]]:
        turns, rounds = Turns(), 0
        had: list[tuple[int, str]] = []

        async def count() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        async def ask(name: str) -> None:
            for _ in range(3):
                await turns.take()
                had.append((rounds, name))

        async def everybody() -> None:
            counting = asyncio.create_task(count())
            leaves, *others = [asyncio.create_task(ask(name)) for name in "xabc"]
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.gather(*others)
            counting.cancel()

        asyncio.run(everybody())
        return had

    rounds, names = zip(*story(), strict=True)
    assert len(set(rounds)) == len(rounds)
    assert "".join(names) == "xabcabcabc"
