"""The teacher: a running average on the student's own frozen parameters."""

from pathlib import Path

import pytest
import torch

from unsam_lightning.__main__ import main
from unsam_lightning.calibration import Calibration
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.teacher import Teacher, Teaching


@pytest.fixture
def student() -> UnSAM:
    return UnSAM.from_pretrained("nano").train()


def test_average_by_hand(student: UnSAM) -> None:
    teacher = Teacher(student, decay=0.5)
    start = student.decoder.token.detach().clone()
    for step, value in enumerate((1.0, 5.0), start=1):
        with torch.no_grad():
            student.decoder.token.fill_(value)
        teacher.follow(step - 1)
        decay = min(0.5, step / (step + 9))
        start = decay * start + (1 - decay) * value
        torch.testing.assert_close(teacher.model.decoder.token.detach(), start)
    assert torch.all(student.decoder.token == 5)


def test_frozen_parameters_are_shared_and_nothing_of_the_teacher_trains(student: UnSAM) -> None:
    teacher = Teacher(student, decay=0.9)
    pairs = zip(student.decoder.named_parameters(), teacher.model.decoder.parameters(), strict=True)
    for (name, theirs), mine in pairs:
        assert (mine.data_ptr() == theirs.data_ptr()) == (not theirs.requires_grad), name
        assert not mine.requires_grad or not theirs.requires_grad
    assert teacher.model.sam is student.sam
    assert student.decoder.training
    assert not teacher.model.decoder.training
    assert sum(p.requires_grad for p in student.parameters()) > 0


def test_the_teacher_answers_as_a_student_with_its_numbers_would(student: UnSAM) -> None:
    teacher = Teacher(student, decay=0.9)
    with torch.no_grad():
        before = student.decoder.token.clone()
        student.decoder.token.add_(1.0)
        embedding = student.encode(torch.rand(1, 3, 256, 256))
        click, label = torch.tensor([[[100.0, 90.0]]]), torch.ones(1, 1)
        answer = teacher.model.decode(embedding, click, label, 0.4).masks
        student.eval()
        assert not torch.equal(student.decode(embedding, click, label, 0.4).masks, answer)
        student.decoder.token.copy_(before)
        assert torch.equal(student.decode(embedding, click, label, 0.4).masks, answer)


def test_the_teacher_of_a_calibrated_student_answers_by_its_bare_dial(student: UnSAM) -> None:
    student.calibration = Calibration(asked=(0.1, 1.0), given=(0.1, 0.4), num_clicks=4)  # of an earlier training
    teacher = Teacher(student, decay=0.9)
    assert teacher.model.calibration is None
    assert student.calibration is not None  # until it trains; the first pictures of a run are drawn with it


def test_state_goes_on_where_it_was(student: UnSAM) -> None:
    teacher = Teacher(student, decay=0.9)
    with torch.no_grad():
        student.decoder.token.add_(1.0)
    teacher.follow(0)
    other = Teacher(student, decay=0.9)
    other.load(teacher.state())
    for each in (teacher, other):
        each.follow(1)
    assert torch.equal(teacher.model.decoder.token, other.model.decoder.token)
    with pytest.raises(UserError, match="other names"):
        other.load({"updates": 1, "averages": {}})


def test_an_optimizer_step_of_several_batches_is_followed_once_also_when_a_resumed_run_begins_it_anew(
    student: UnSAM,
) -> None:
    teacher, resumed, old = (Teacher(student, decay=0.9) for _ in range(3))
    with torch.no_grad():
        student.decoder.token.add_(1.0)
    teacher.follow(4)
    after = teacher.model.decoder.token.clone()
    teacher.follow(4)
    resumed.load(teacher.state())
    resumed.follow(4)
    for each in (teacher, resumed):
        assert (each.updates, torch.equal(each.model.decoder.token, after)) == (1, True)
    resumed.follow(5)
    assert resumed.updates == 2
    old.load({key: value for key, value in teacher.state().items() if key != "followed_at"})
    old.follow(5)
    assert torch.equal(old.model.decoder.token, resumed.model.decoder.token)


def test_fit_follows_once_for_each_optimizer_step(tiny_run: Path, tmp_path: Path) -> None:
    args = ["fit", "--config", str(tiny_run), "--test_after_fit", "false", "--data.num_workers", "0"]
    args += ["--trainer.max_steps", "2", "--trainer.accumulate_grad_batches", "2", "--data.calibration_images", "0"]
    assert main(args) == 0
    (last,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
    content = torch.load(last, weights_only=True)
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 4
    assert (content["teacher"]["updates"], content["teacher"]["followed_at"]) == (2, 1)


def test_ramp() -> None:
    assert [Teaching(ramp_steps=4).ramp(step) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert Teaching(ramp_steps=0).ramp(0) == 1.0
    with pytest.raises(UserError, match="decay 1"):
        Teaching(decay=1.0)
