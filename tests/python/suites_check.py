"""Whether the judge of the suites judges: what is excluded must fail, and nothing else may, nor vanish."""
import unittest

import suites
from suites_selection import Exclusion, Suite


class Tests(unittest.TestCase):
    def test_passes(self):
        pass

    def test_fails(self):
        self.fail("it fails")

    def test_breaks(self):
        raise OSError("it breaks")

    def test_skips(self):
        self.skipTest("it skips")

    def test_fails_in_part(self):
        with self.subTest():
            self.fail("it fails")

    @unittest.expectedFailure
    def test_is_not_as_bad_as_expected(self):
        pass


def judged(excluded):
    """Which tests come as they should, with these exclusions."""
    judge = suites.Judge({name: Exclusion(name, "it is excluded") for name in excluded})
    good = set()
    for name in unittest.TestLoader().getTestCaseNames(Tests):
        judge.begin(name)
        Tests(name).run(judge)
        if judge.end():
            good.add(name)
    assert good.isdisjoint(name for name, _ in judge.wrong), judge.wrong
    return good, set(judge.left_out)


def vanished(**changed):
    suite = Suite("HistoryStorage", "ZODB.tests.HistoryStorage.HistoryStorage", "ArrayCase", 1)
    assert [name for name, _ in suites.load(suite)] == ["HistoryStorage.testSimpleHistory"]
    try:
        suites.load(suite._replace(**changed))
    except (AttributeError, ImportError, SystemExit):
        return
    raise AssertionError(f"{changed} was not noticed")


every = set(unittest.TestLoader().getTestCaseNames(Tests))
assert judged([]) == ({"test_passes"}, set()), judged([])
assert judged(every) == (every - {"test_passes"}, every - {"test_passes"}), judged(every)
vanished(source="ZODB.tests.HistoryStorage.NoSuchStorage")
vanished(source="ZODB.tests.NoSuchStorage.HistoryStorage")
vanished(tests=2)
