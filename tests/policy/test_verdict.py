"""Several ways to know a caller: any of them will do."""

import pytest

from mcpproxy.policy.verdict import Accepted, Ask, Credential, Principal, Question, Refused, judge_by_any


async def nothing() -> None:
    pass


YES, OTHER = Accepted(Principal("alice", "a")), Accepted(Principal("bob", "b"))
ASK, ASK_TOO = Ask(Question("one", nothing)), Ask(Question("two", nothing))
EXPIRED, FOREIGN, BAD = Refused("token-expired"), Refused("token-issuer"), Refused("token-signature")


class Says:
    name = "x"

    def __init__(self, judgement):
        self.judgement = judgement

    def judge(self, credential, now, payer):
        return self.judgement


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ([], None),
        ([None, None], None),
        ([None, YES], YES),
        ([YES, OTHER], YES),
        ([EXPIRED, YES], YES),
        ([ASK, YES], YES),
        ([EXPIRED, ASK, ASK_TOO, None], ASK),
        ([ASK, EXPIRED], ASK),
        ([None, EXPIRED, BAD], EXPIRED),
        ([FOREIGN, EXPIRED, FOREIGN], EXPIRED),
        ([FOREIGN, None], FOREIGN),
    ],
)
def test_who_accepts_wins(said, result):
    assert result is judge_by_any(map(Says, said), Credential("bearer", b"x"), 0.0)
