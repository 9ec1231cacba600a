import subprocess
import sys

from sdlms.explorer.questions import ChatRequest, Question
from sdlms.explorer.settings import ExplorerSettings


def test_a_question_without_wishes_asks_for_everything() -> None:
    question = Question()
    assert question.include_context
    assert (question.layers, question.lens, question.pins) == (None, "logit", ())
    assert question.context_size == ExplorerSettings().context_size


def test_a_chat_keeps_its_activations_and_is_greedy() -> None:
    request = ChatRequest(text="Hello")
    assert request.cache_activations
    assert request.sampling.temperature == 0


def test_settings_and_refusals_need_nothing_heavy() -> None:
    program = (
        "import sys, sdlms.explorer.settings, sdlms.explorer.refusals\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
