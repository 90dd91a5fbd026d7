"""The dry run: it counts truly and writes nothing."""

from collections.abc import Callable

from phi_vision.train.plan import make_plan
from phi_vision.train.recipes import Recipe
from phi_vision.train.trainer import prepare

MakeRecipe = Callable[..., Recipe]


def test_a_plan_counts_what_training_would_use(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", batch_size=5, gradient_accumulation=2, epochs=1.5)
    plan = make_plan(recipe)
    assert (plan.training, plan.validation, plan.shared_groups) == (16, 4, 0)
    # 16 samples are 4 batches of 5 and so 2 steps an epoch; one and a half epochs are 3.
    assert (plan.steps_per_epoch, plan.steps) == (2, 3)
    # Pictures of one crop and its global view, 2 x 2 tokens each: 2 * 4 + 1 + 2 * 2.
    assert list(plan.image_tokens) == [13, 13]
    learner = prepare(recipe).learner
    trained = [weight for weight in learner.model.parameters() if weight.requires_grad]
    assert plan.trained == sum(weight.numel() for weight in trained)
    assert plan.memory > 4 * plan.parameters


def test_a_plan_writes_nothing(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("full")
    text = make_plan(recipe).as_text()
    assert "16 to train on, 4 to validate on, 0 groups on both sides" in text
    assert not recipe.out.exists()


def test_fewer_samples_and_checkpointing_need_less_memory(make_recipe: MakeRecipe) -> None:
    eight = make_plan(make_recipe("full")).memory
    one = make_plan(make_recipe("full", batch_size=1)).memory
    checkpointed = make_plan(make_recipe("full", gradient_checkpointing=True)).memory
    assert one < checkpointed < eight
