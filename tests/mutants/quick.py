"""A profile for runs that only ask whether a test fails: the failing example is not made smaller first."""

from hypothesis import Phase, settings

settings.register_profile("quick", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)
