from dataclasses import fields

from sdlms.explorer.settings import ExplorerSettings


def test_limits_are_all_numbers_of_the_settings() -> None:
    settings = ExplorerSettings(max_pins=3)
    numbers = {each.name for each in fields(settings) if each.type is int or each.type == "int"}
    assert settings.limits().keys() == numbers
    assert settings.limits()["max_pins"] == 3
