"""What no UTF-8 can hold costs neither a reply nor a run."""

from tfgrpo import Budget, Sampling, connect
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.record import CallKey, RunRecord


async def test_half_a_surrogate_pair_in_a_reply_is_replaced(chat_server, tmp_path):
    chat_server.answer = lambda body: "a\ud800b"
    policy = connect(f"{chat_server.url}#m")
    with RunRecord.open(tmp_path) as record:
        caller = Caller(policy, record=record, ledger=Ledger(Budget()))
        reply = await caller.complete([{"role": "user", "content": "?"}], CallKey(purpose="solve"), Sampling())
        record.put_state("odd", "\ud800")
        assert record.get_state("odd") == "\ud800"
    await policy.aclose()
    assert reply.text == "a\ufffdb"
