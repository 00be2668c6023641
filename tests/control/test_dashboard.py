"""The page is whole, asks nobody else for anything, and its policy fits it."""

import re

from mcpproxy.control.dashboard import PAGE, POLICY, policy

TEXT = PAGE.decode()


def test_the_policy_allows_this_script_and_style_and_nothing_else() -> None:
    assert POLICY.count("'sha256-") == 2
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert "frame-ancestors 'none'" in POLICY
    assert policy(PAGE.replace(b'"use strict"', b'"use strict";')) != POLICY


def test_it_asks_no_other_host() -> None:
    links = set(re.findall(r"https?://[^\"' )]+", TEXT))
    assert links <= {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_values_never_become_markup() -> None:
    script = TEXT.partition("<script>")[2]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "DOMParser", "srcdoc"):
        assert word not in script, word


def test_nothing_of_it_would_be_refused_by_its_policy() -> None:
    assert " style=" not in TEXT
    assert not re.search(r" on[a-z]+=", TEXT.partition("<script>")[0])
    assert '<link rel="stylesheet' not in TEXT
