"""What `tierflow-check` is told, and how it judges and tells."""

import msgspec
import numpy as np
import pytest

from factories.planes import tensor_of
from tierflow.tiers import Tier
from tierflow_worker.check import MOST_BYTES, Verdict, compare, encode, read_settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--worker", "device=h:1"], "--descriptor"),
        (["--descriptor", "device=d", "--worker", "moon=h:1"], "'moon=h:1' is not TIER=VALUE"),
        (["--descriptor", "device=d", "--worker", "device=h:1", "--worker", "device=h:2"], "given twice"),
        (["--descriptor", "device=d", "--worker", "device=h:1", "--timeout-seconds", "0"], "--timeout-seconds"),
        (["--descriptor", "device=d", "--worker", "device=h:1", "--timeout-seconds", "nan"], "--timeout-seconds"),
        (["--descriptor", "device=d", "--worker", "device=h:1", "--threads", "0"], "--threads"),
    ],
)
def test_a_wrong_flag_of_the_check_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(arguments, {})
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_nan_in_the_same_places_is_equal_and_elsewhere_is_not() -> None:
    expected = {"y": tensor_of("y", np.array([np.nan, 1, -np.inf], dtype=np.float32))}
    assert compare(expected, expected, (Tier.DEVICE,)).bit_identical
    moved = {"y": tensor_of("y", np.array([1, np.nan, -np.inf], dtype=np.float32))}
    verdict = compare(moved, expected, (Tier.DEVICE,))
    assert (verdict.holds, verdict.largest_relative_difference) == (False, 1.0)


def test_a_difference_within_the_tolerance_holds_without_being_identical() -> None:
    expected = {"y": tensor_of("y", np.array([1, 2], dtype=np.float64))}
    near = {"y": tensor_of("y", np.array([1, 2 + 1e-8], dtype=np.float64))}
    verdict = compare(near, expected, (Tier.DEVICE,))
    assert (verdict.holds, verdict.bit_identical) == (True, False)


def test_a_difference_without_bounds_is_still_json() -> None:
    expected = {"y": tensor_of("y", np.array([5e-324], dtype=np.float64))}
    far = {"y": tensor_of("y", np.array([1e308], dtype=np.float64))}
    verdict = msgspec.json.decode(encode(compare(far, expected, (Tier.DEVICE,))))
    assert not verdict["holds"]
    assert verdict["largestRelativeDifference"] > 1e300


def test_a_verdict_fits_a_termination_message_whatever_it_says() -> None:
    text = encode(Verdict(holds=False, message='"\n層' * 5000))
    assert len(text.encode()) <= MOST_BYTES
    assert msgspec.json.decode(text)["message"].endswith("…")
