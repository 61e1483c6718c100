"""An engine behind `understudy worker`, on another machine or in a child process."""
