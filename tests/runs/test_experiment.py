"""What experiments say of themselves."""

from ldp_fast.runs.experiment import as_subject


def test_names_begin_a_sentence() -> None:
    assert as_subject([]) == [] and as_subject(["fm"]) == ["fm is"] and as_subject(["fm", "kl"]) == ["fm and kl are"]
    assert as_subject(["the latents"], ("the latents",)) == ["the latents are"]
    assert as_subject(["lsd", "fm", "the latents"], ("the latents",)) == ["lsd, fm and the latents are"]
