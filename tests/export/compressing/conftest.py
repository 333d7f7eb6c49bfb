"""One search on made-up trials, which the tests of its files and those of its page look at."""

import pytest
from stub_trials import TRIALS, stub_search


@pytest.fixture(scope="package")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    return stub_search(folder, trials=TRIALS), folder
