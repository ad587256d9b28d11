"""What a platform team adds to exportkit: a policy, a model card and a webhook."""
