"""The data that the experiments train on: a file a data set or a stream of tasks."""
