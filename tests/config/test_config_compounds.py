"""Tables made of others, where the wiring names one: only what answers for the whole is read as an answer."""

import pytest

from appliance.tables import answering, leaves
from tests.config.folders import WIRING, Folder
from tests.config.test_config_snapshot import good, told


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("texthash:a", ["texthash:a"]),
        ("pipemap:{texthash:a, texthash:b}", ["texthash:b"]),
        ("unionmap:{texthash:a, texthash:b}", ["texthash:a", "texthash:b"]),
        ("pipemap:{unionmap:{texthash:a, hash:b}, pipemap:{hash:c, cdb:d}}", ["cdb:d"]),
        ("unionmap:{pipemap:{hash:a, hash:b}, texthash:c}", ["hash:b", "texthash:c"]),
    ],
)
def test_which_of_its_tables_answer(spec: str, expected: list[str]) -> None:
    assert list(answering(spec)) == expected and set(expected) <= set(leaves(spec))


def test_keys_of_the_next_table_are_no_transports(folder: Folder) -> None:
    folder.write("first", "example.com inside\n")
    folder.write("second", "inside smtp:[10.0.0.1]\n")
    folder.wiring(WIRING.replace("next_hop", 'routes = "pipemap:{texthash:first, texthash:second}"\nnext_hop'))
    assert good(folder)
    folder.write("second", "inside nonsense\n")
    (line,) = told(folder)
    assert line.startswith('second:1:1: "nonsense" is no transport')
    folder.wiring(WIRING.replace("next_hop", 'routes = "unionmap:{texthash:first, texthash:second}"\nnext_hop'))
    assert [line.split(": ")[0] for line in told(folder)] == ["first:1:1", "second:1:1"]
