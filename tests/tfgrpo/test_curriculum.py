from tfgrpo import Problem
from tfgrpo.curriculum import Curriculum
from tfgrpo.samplers.epochs import LOOKAHEAD

PROBLEMS = tuple(Problem(id=f"p{n}", messages=({"role": "user", "content": str(n)},)) for n in range(30))


def nothing(problem):
    return 0.0


def test_an_epoch_holds_every_problem_once_and_seeds_decide_the_order():
    def epoch(seed):
        curriculum = Curriculum(PROBLEMS, seed)
        return [curriculum.next(nothing).id for _ in PROBLEMS]

    assert sorted(epoch(1)) == sorted(p.id for p in PROBLEMS)
    assert epoch(1) == epoch(1) != epoch(2)


def test_the_least_covered_of_the_next_ones_comes_first():
    plain = Curriculum(PROBLEMS, 0)
    ahead = [plain.next(nothing) for _ in range(LOOKAHEAD)]
    wanted = ahead[7]
    chosen = Curriculum(PROBLEMS, 0).next(lambda p: 0.0 if p == wanted else 1.0)
    assert chosen == wanted


def test_a_problem_that_taught_comes_back_once_and_at_most_every_second_time():
    curriculum = Curriculum(PROBLEMS, 0)
    for problem in PROBLEMS[:3]:
        curriculum.revisit(problem)
    order = [curriculum.next(nothing) for _ in range(10)]
    assert [order[1], order[3], order[5]] == list(PROBLEMS[:3])
    assert curriculum.epochs == 1


def test_it_never_ends():
    curriculum = Curriculum(PROBLEMS[:2], 0)
    assert len([curriculum.next(nothing) for _ in range(7)]) == 7
    assert curriculum.epochs == 4
