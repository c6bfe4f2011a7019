"""The command line and the Prefect flow: words and pictures around `pipeline.run`. No logic lives here."""
