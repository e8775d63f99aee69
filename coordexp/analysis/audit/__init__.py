"""Can the logs be believed, and do the runs differ in nothing but their objective?"""
