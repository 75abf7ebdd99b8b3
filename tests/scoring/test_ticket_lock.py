import threading
from concurrent.futures import ThreadPoolExecutor

from neuneu.scoring.workers.worker import TicketLock


def test_tickets_are_served_in_the_order_they_were_taken() -> None:
    lock = TicketLock()
    served: list[int] = []
    late = threading.Event()
    numbers = [lock.take() for _ in range(3)]

    def serve(number: int) -> None:
        if number == numbers[0]:
            assert late.wait(30)
        lock.wait_for(number)
        served.append(number)
        lock.release(number)

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(serve, number) for number in reversed(numbers)]
        late.set()
        for future in done:
            future.result(30)
    assert served == numbers


def test_ticket_that_is_released_without_being_served_lets_the_next_on() -> None:
    lock = TicketLock()
    first, second = lock.take(), lock.take()
    lock.release(first)
    lock.release(first)
    lock.wait_for(second)
    lock.release(second)
