from distredge.plans.plan import BoundPlan, ModelRef, Plan, Prediction, VolumePlan  # temporary: this package moves to distredge.plans; import from there
