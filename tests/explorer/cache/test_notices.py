from sdlms.explorer.cache.notices import MOST_KEPT, Notices


def test_each_message_is_said_once_and_kept() -> None:
    said: list[str] = []
    notices = Notices(said.append)
    for text in ("a", "b", "a", "b"):
        notices.say(text)
    assert said == notices.texts() == ["a", "b"]


def test_only_the_last_are_kept() -> None:
    notices = Notices(lambda text: None)
    for i in range(2 * MOST_KEPT):
        notices.say(str(i))
    assert notices.texts() == [str(i) for i in range(MOST_KEPT, 2 * MOST_KEPT)]


def test_what_is_withdrawn_is_said_again() -> None:
    said: list[str] = []
    notices = Notices(said.append)
    for text in ("a", "b"):
        notices.say(text)
    notices.withdraw("a")
    assert notices.texts() == ["b"]
    notices.say("a")
    assert said == ["a", "b", "a"] and notices.texts() == ["b", "a"]
