"""The overview of the agent: rates between two readings, and answers that are no reports."""

from __future__ import annotations

import msgspec

from sematext_agent.shared.overview import (
    DeliveryFigures,
    DeliveryRates,
    Overview,
    compute_rates,
    decode_report,
)

FIGURES = DeliveryFigures(
    monotonic_seconds=100.0,
    created="2026-11-23T15:04:05Z",
    first_sequence=1,
    last_sequence=50,
    events=50,
    bytes=5000,
    bytes_max=0,
    lag=20,
    in_flight=5,
    dead_letters=0,
)


def overview(**changes: object) -> Overview:
    figures = msgspec.structs.replace(FIGURES, **changes)
    return Overview(connected=True, now=0.0, delivery=figures)


def test_rates_are_stored_and_finished_events_a_second() -> None:
    later = overview(monotonic_seconds=110.0, last_sequence=80, lag=0)
    assert compute_rates(overview(), later) == DeliveryRates(arriving=3.0, delivering=5.0)


def test_a_longer_lag_is_no_negative_rate() -> None:
    later = overview(monotonic_seconds=110.0, lag=30)
    assert compute_rates(overview(), later) == DeliveryRates()


def test_overviews_of_different_streams_or_without_one_have_no_rates() -> None:
    replaced = overview(monotonic_seconds=110.0, last_sequence=80, created="2026-11-24T00:00:00Z")
    assert compute_rates(overview(), replaced) == DeliveryRates()
    away = Overview(connected=False, now=0.0)
    assert compute_rates(away, overview()) == compute_rates(overview(), away) == DeliveryRates()


def test_two_readings_at_the_same_moment_have_finite_rates() -> None:
    assert compute_rates(overview(), overview(last_sequence=51)).arriving == 10.0


def test_an_answer_that_is_no_report_is_ignored() -> None:
    assert decode_report(b"something else that answers on the subject") is None
    assert decode_report(b"{}") is None
