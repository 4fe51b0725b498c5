"""The published arithmetic, kept so that published weights give the published results."""
