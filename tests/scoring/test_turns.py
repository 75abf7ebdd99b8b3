import threading
from concurrent.futures import ThreadPoolExecutor

from neuneu.scoring.workers.turns import Turns


def test_turns_are_served_in_the_order_they_were_taken() -> None:
    turns = Turns()
    served: list[int] = []
    late = threading.Event()
    numbers = [turns.take() for _ in range(3)]

    def serve(number: int) -> None:
        if number == numbers[0]:
            assert late.wait(30)
        turns.wait_for(number)
        served.append(number)
        turns.leave(number)

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(serve, number) for number in reversed(numbers)]
        late.set()
        for future in done:
            future.result(30)
    assert served == numbers


def test_turn_that_is_left_without_being_served_lets_the_next_on() -> None:
    turns = Turns()
    first, second = turns.take(), turns.take()
    turns.leave(first)
    turns.leave(first)
    turns.wait_for(second)
    turns.leave(second)
