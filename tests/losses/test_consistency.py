import math

import pytest
import torch

from unsam_lightning.losses.consistency import consistency_loss


def teacher_of(count: int = 3, seed: int = 0) -> torch.Tensor:
    masks = torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(seed)) < 0.4
    return torch.where(masks, 4.0, -4.0)


def everywhere(logits: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(logits, dtype=torch.bool)


def test_by_hand() -> None:
    teacher = torch.tensor([[[10.0, 10.0], [-10.0, -10.0]]])
    loss = consistency_loss(torch.zeros_like(teacher), teacher, everywhere(teacher))
    assert loss.item() == pytest.approx(math.log(2) + 1 - (2 * 0.5 * 2 + 1) / (4 * 0.5 + 2 + 1))


def test_agreement_is_cheap_and_disagreement_dear() -> None:
    teacher = teacher_of()
    assert consistency_loss(5 * teacher, teacher, everywhere(teacher)) < 1e-5
    assert consistency_loss(-teacher, teacher, everywhere(teacher)) > 4


def test_pixels_that_only_one_view_sees_or_the_teacher_doubts_take_no_part() -> None:
    teacher = teacher_of()
    both_see = everywhere(teacher)
    both_see[:, :, 6:] = False
    teacher[:, :2] *= 0.1  # probability 0.6 of its decision
    student = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = consistency_loss(student, teacher, both_see)
    (gradient,) = torch.autograd.grad(loss, student)
    takes_part = both_see & (teacher.abs() > 1)
    assert (gradient[~takes_part] == 0).all()
    assert (gradient[takes_part].sign() == -teacher[takes_part].sign()).all()
    other = torch.where(takes_part, student, -7 * student + 3)
    torch.testing.assert_close(consistency_loss(other, teacher, both_see), loss)


def test_teacher_gets_no_gradient() -> None:
    teacher = teacher_of().requires_grad_()
    student = torch.zeros(3, 8, 8, requires_grad=True)
    consistency_loss(student, teacher, everywhere(teacher)).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("constant", [-20.0, -1.0, 0.0, 1.0, 20.0])
def test_saying_the_same_everywhere_does_not_lower_the_loss(constant: float) -> None:
    teacher = teacher_of()
    honest = consistency_loss(teacher, teacher, everywhere(teacher))
    collapsed = consistency_loss(torch.full_like(teacher, constant), teacher, everywhere(teacher))
    assert collapsed > 10 * honest


@pytest.mark.parametrize("constant", [-4.0, 4.0])
def test_teacher_that_says_the_same_everywhere_teaches_nothing(constant: float) -> None:
    teacher = teacher_of(4)
    student = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = consistency_loss(student[:3], teacher[:3], everywhere(teacher[:3]))
    teacher[3] = constant
    student.requires_grad_()
    loss = consistency_loss(student, teacher, everywhere(teacher))
    torch.testing.assert_close(loss, expected)  # it is left out of the mean, not counted as an agreement
    loss.backward()
    assert (student.grad[3] == 0).all()
    assert (student.grad[:3] != 0).any()


@pytest.mark.parametrize("count", [0, 2])
def test_without_anything_to_teach_it_is_a_zero_with_a_gradient(count: int) -> None:
    student = torch.randn(count, 8, 8, requires_grad=True)
    loss = consistency_loss(student, torch.full((count, 8, 8), -9.0), torch.ones(count, 8, 8, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert (student.grad == 0).all()


def test_order_of_prompts_does_not_matter() -> None:
    teacher = teacher_of(5)
    student = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        consistency_loss(student[order], teacher[order], everywhere(teacher)),
        consistency_loss(student, teacher, everywhere(teacher)),
    )
