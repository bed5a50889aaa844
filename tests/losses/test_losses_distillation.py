"""Distillation: known answers, the definitions pair by pair, and ranks."""

import pytest
import torch
from torch.nn.functional import normalize

from stablerep_hf.losses import feature_distillation_loss, similarity_distillation_loss


def sides(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(count, 5, dtype=torch.float64, generator=generator)
    return student, torch.randn(count, 5, dtype=torch.float64, generator=generator)


def test_known_answers():
    teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert float(feature_distillation_loss(5 * teacher, teacher)) == pytest.approx(0)
    assert float(feature_distillation_loss(-teacher, teacher)) == pytest.approx(2)
    assert float(feature_distillation_loss(teacher.flip(1), teacher)) == pytest.approx(1)
    # a rotated student has the teacher's similarities; one whose images are all alike has 1 where the teacher has 0
    assert float(similarity_distillation_loss(teacher.flip(1), teacher)) == pytest.approx(0)
    assert float(similarity_distillation_loss(torch.ones(2, 3), teacher)) == pytest.approx(2 / 4)


def test_similarities_are_those_of_all_pairs_with_their_gradient():
    student, teacher = sides()
    student.requires_grad_()
    cosines = [normalize(side) @ normalize(side).T for side in (student, teacher[:, :3])]
    expected = (cosines[0] - cosines[1]).square().mean()
    loss = similarity_distillation_loss(student, teacher[:, :3])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))
    assert torch.autograd.gradcheck(lambda rows: similarity_distillation_loss(rows, teacher), (student,))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(7, 5\), the teacher's \(7, 3\)"):
        feature_distillation_loss(sides()[0], sides()[1][:, :3])
    with pytest.raises(ValueError, match="of 7 images and of 6"):
        similarity_distillation_loss(sides()[0], sides()[1][:6])


def on_a_rank(shares):
    import torch.distributed as dist

    student, teacher = (side.split(shares)[dist.get_rank()] for side in sides())
    student = student.clone().requires_grad_()
    loss = feature_distillation_loss(student, teacher) + similarity_distillation_loss(student, teacher)
    return float(loss.detach()), torch.autograd.grad(loss, student)[0] / dist.get_world_size()


@pytest.mark.distributed
@pytest.mark.parametrize("shares", [[4, 3], [0, 7]])
def test_two_ranks_have_the_loss_and_the_gradient_of_one(run_on_gloo, shares):
    student, teacher = sides()
    student.requires_grad_()
    loss = feature_distillation_loss(student, teacher) + similarity_distillation_loss(student, teacher)
    ranks = run_on_gloo(on_a_rank, shares)
    assert [value for value, _ in ranks] == pytest.approx([float(loss.detach())] * 2)
    torch.testing.assert_close(torch.cat([grad for _, grad in ranks]), torch.autograd.grad(loss, student)[0])
