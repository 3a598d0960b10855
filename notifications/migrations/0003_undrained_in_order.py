from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("notifications", "0002_reference_length")]

    # The new one first: while it is made, PostgreSQL lets readers go on; only to drop the old one shuts them out.
    operations = [
        migrations.AddIndex(
            model_name="event",
            index=models.Index(condition=models.Q(seq=None), fields=["topic", "id"], name="notifications_event_waiting"),
        ),
        migrations.RemoveIndex(model_name="event", name="notifications_event_undrained"),
    ]
