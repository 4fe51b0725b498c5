"""The one engine: it reads ahead, computes, stores, resumes and measures, whatever the job."""
