"""What of Ray Train must not run beside our loop."""

from ray.train import ScalingConfig

from jobs.train.ray_host import _Trainer


def test_nobody_ends_ranks_because_another_ray_does_not_know_them() -> None:
    trainer = _Trainer(print, scaling_config=ScalingConfig(num_workers=1))
    names = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert "BackendSetupCallback" in names
    assert not names & {"DatasetsCallback", "PlacementGroupCleanerCallback"}
