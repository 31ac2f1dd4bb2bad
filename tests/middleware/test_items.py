"""
What a cache must respect on HTTP, item by item, and the test that speaks for each.

A test's name carries its items: ``test_item_07_...``, ``test_item_09_17_31_...``. One test
stands here for each; others may carry the number too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

ITEMS: dict[int, tuple[str, str]] = {
    1: ("other protocols pass", "item_01_other_protocols_pass_untouched"),
    2: ("the body is read whole, up to a cap", "item_02_a_body_over_the_cap_passes_byte_for_byte"),
    3: ("then the server", "item_03_after_the_body_the_application_waits_for_the_server"),
    4: ("a disconnect within the body", "item_04_a_client_that_leaves_with_its_body_is_forwarded"),
    5: ("a client gone mid-stream", "item_05_a_client_that_leaves_mid_stream_stores_nothing"),
    6: ("each chunk as it comes", "item_06_each_chunk_goes_out_before_the_next_is_made"),
    7: ("stored after the last chunk", "item_07_the_answer_is_stored_before_background_work_ends"),
    8: ("the application's own messages", "item_08_the_applications_messages_stay_its_own"),
    9: ("what is stored", "item_09_17_31_what_may_not_be_stored_is_not"),
    10: ("files and trailers", "item_10_bodies_that_cannot_be_recorded_are_not_offered"),
    11: ("HEAD, OPTIONS, ranges", "item_11_head_is_answered_without_a_body_and_never_stores"),
    12: ("no namespace, no cache", "item_12_without_a_namespace_there_is_no_cache"),
    13: ("two copies in one stack", "item_13_of_two_copies_the_inner_one_passes_through"),
    14: ("context variables", "item_14_context_variables_reach_the_application_and_back"),
    15: ("the key", "item_15_requests_that_differ_in_the_rest_of_the_body_never_meet"),
    16: ("credentials", "item_16_requests_with_other_credentials_never_meet"),
    17: ("fields that are not replayed", "item_17_only_fields_that_may_be_sent_again_are_kept"),
    18: ("Vary", "item_18_an_absent_field_matches_only_an_absent_one"),
    19: ("what a client says", "item_19_a_client_may_ask_for_a_new_answer"),
    20: ("what the application says", "item_20_the_application_caps_the_lifetime"),
    21: ("Age and Cache-Status", "item_21_a_hit_tells_its_age_and_layer"),
    22: ("validators", "item_22_a_hit_has_no_validator_of_another_questions_answer"),
    23: ("encodings", "item_23_the_application_is_not_asked_to_compress"),
    24: ("one call for equal requests", "item_24_equal_requests_at_once_are_one_call"),
    25: ("wsgi.input", "item_25_the_application_reads_the_body_that_was_read"),
    26: ("start_response, write and close", "item_26_close_is_always_called"),
    27: ("formats of streams", "item_27_a_stream_that_was_made_is_whole_and_none_of_its_parts_is"),
    28: ("whole answers only", "item_28_a_torso_or_an_early_end_is_not_stored"),
    29: ("both forms from one entry", "item_29_one_entry_answers_both_forms"),
    30: ("event by event", "item_30_a_hit_replays_the_very_bytes"),
    31: ("no error is replayed", "item_09_17_18_20_31_some_responses_are_never_stored"),
    32: ("transports of httpx and httpx2", "item_32_a_miss_a_hit_and_a_rewording"),
    33: ("langchain and litellm", "item_33_a_question_is_paid_for_once"),
    34: ("disconnects by hand or on real servers",
         "item_34_no_test_of_a_disconnect_goes_through_a_transport_that_buffers"),
}  # fmt: skip


def named() -> Iterator[tuple[str, Path]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, path


def items_of(name: str) -> set[int]:
    found = re.match(r"test_item((?:_\d\d)+)_[a-z]", name)
    return {int(number) for number in found[1].split("_")[1:]} if found else set()


NAMES = dict(named())


@pytest.mark.parametrize("number", ITEMS)
def test_each_item_has_its_test(number: int) -> None:
    """The test that stands for an item is there, and carries its number."""
    name = f"test_{ITEMS[number][1]}"
    assert name in NAMES
    assert number in items_of(name)


def test_the_list_is_whole() -> None:
    """All 34 are done, and no test speaks of another."""
    assert sorted(ITEMS) == list(range(1, 35))
    assert {number for name in NAMES for number in items_of(name)} <= set(ITEMS)


def test_numbers_are_written_one_way() -> None:
    """Two digits each, so that a search for an item finds all of its tests."""
    assert not [name for name in NAMES if name.startswith("test_item_") and not items_of(name)]


def test_item_34_no_test_of_a_disconnect_goes_through_a_transport_that_buffers() -> None:
    """ASGI transports of HTTP clients hand over whole responses, and cannot show one."""
    of_disconnects = {path for name, path in NAMES.items() if items_of(name) & {3, 4, 5, 6}}
    assert len(of_disconnects) > 3
    for path in of_disconnects:
        source = path.read_text()
        assert not [word for word in ("ASGITransport", "TestClient") if word in source], path
