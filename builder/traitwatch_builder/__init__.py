"""From a trait's name to a persona vector: one module a step, and the artifact format the server reads."""
