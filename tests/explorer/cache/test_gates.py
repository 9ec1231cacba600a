from concurrent.futures import ThreadPoolExecutor

from sdlms.explorer.cache.gates import N_GATES, Gates


def test_a_conversation_has_one_lock_and_may_take_it_twice() -> None:
    gates = Gates()
    with gates.of("c"), gates.of("c"):
        with ThreadPoolExecutor(1) as other:
            assert not other.submit(lambda: gates.of("c").acquire(blocking=False)).result()


def test_others_mostly_have_another_one() -> None:
    gates = Gates()
    locks = {id(gates.of(f"c{i}")) for i in range(20 * N_GATES)}
    assert N_GATES / 2 < len(locks) <= N_GATES
