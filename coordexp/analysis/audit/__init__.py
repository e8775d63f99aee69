"""Can the logs be believed, and did the runs differ in nothing but their objective?"""
