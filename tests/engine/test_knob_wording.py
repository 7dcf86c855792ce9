"""Wrong values of shipped knobs are told in an operator's words, with how they are written."""

import pytest

from appliance.engine.policy import compile_policies


@pytest.mark.parametrize(
    ("file", "knobs", "text"),
    [
        ("greylist.toml", {"when": "allways"}, "when is one of suspicious, always, not 'allways' (did you mean always?)"),
        ("greylist.toml", {"reasons": ["noname"]}, "reasons is one of wire, no_name, "),
        ("tls.toml", {"minimum": "1.2"}, "minimum is one of TLSv1.2, TLSv1.3, not '1.2'"),
        ("early_talker.toml", {"wait": "2m"}, "must be at most 60s, not '2m'"),
        ("ratelimit.toml", {"network_connections": 100}, "must be a list, for example [120, 3000], not 100"),
        ("ratelimit.toml", {"network_connections": [100]}, "a list of 2 is wanted, for example [120, 3000]"),
        ("spf.toml", {"judge_helo": "maybe"}, "must be true or false, not 'maybe'"),
        ("attachments.toml", {"forbidden_extensions": ["exe", "*.scr"]}, '"*.scr" is no extension: write "exe"'),
        ("attachments.toml", {"forbidden_extensions": "tar.gz"}, '"tar.gz" is no extension'),
        ("attachments.toml", {"forbidden_types": ["exe"]}, '"exe" is no type: write "application/x-dosexec"'),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(file: str, knobs: dict[str, object], text: str) -> None:
    (complaint,) = compile_policies({file: knobs})[1]
    assert complaint.fatal and complaint.text.startswith(text)


def test_an_extension_may_be_written_with_its_dot() -> None:
    assert compile_policies({"attachments.toml": {"forbidden_extensions": [".exe", "{clsid}"]}})[1] == []
