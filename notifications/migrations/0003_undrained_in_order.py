from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("notifications", "0002_reference_length")]

    operations = [
        migrations.RemoveIndex(model_name="event", name="notifications_event_undrained"),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(
                condition=models.Q(seq=None), fields=["topic", "id"], name="notifications_event_undrained"
            ),
        ),
    ]
