import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.concat_ws;
import static org.apache.spark.sql.functions.date_format;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.timestamp_millis;
import static org.apache.spark.sql.functions.to_json;
import static org.apache.spark.sql.functions.unix_millis;
import static org.apache.spark.sql.functions.window;

import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;

/**
 * The query in Spark Structured Streaming, local[2].
 *
 * Responsible for the query of the original monitor and for settings under which it does its best. Must never change
 * what the query says.
 *
 * The settings, and why:
 * - Two shuffle partitions, for two cores; the default of 200 is made for clusters and would take most of the time.
 * - Output mode update: each micro-batch writes the counts above the threshold that changed in it. Append would wait for
 *   the watermark, which Spark takes from the records that pass the filter, so that the last windows would not close.
 * - No limit of a micro-batch, which is the default: the catch-up is one batch, and none has the costs of its start twice.
 * - State and offsets in a checkpoint directory, as a recovery needs them. Spark's Kafka sink writes at least once; it
 *   has no transactions to pay for.
 * - Spark parses JSON itself, and only the fields that the query names.
 */
final class SparkPeer {
    public static void main(String[] args) {
        SparkSession session = SparkSession.builder()
                .master("local[2]")
                .appName("peer")
                .config("spark.ui.enabled", false)
                .config("spark.driver.host", "127.0.0.1")
                .config("spark.sql.shuffle.partitions", 2)
                .config("spark.sql.session.timeZone", "UTC")
                .getOrCreate();
        session.sparkContext().setLogLevel("WARN");
        Passes.run(args, pass -> start(session, pass));
    }

    private static AutoCloseable start(SparkSession session, Passes.Pass pass) throws Exception {
        StreamingQuery query = results(session, pass)
                .writeStream()
                .format("kafka")
                .option("kafka.bootstrap.servers", pass.bootstrap())
                .option("topic", pass.output())
                .option("checkpointLocation", pass.state().toString())
                .outputMode("update")
                .start();
        pass.reads();
        return query::stop;
    }

    private static Dataset<Row> results(SparkSession session, Passes.Pass pass) {
        StructType schema = new StructType()
                .add("timestamp", DataTypes.LongType)
                .add("status", DataTypes.StringType)
                .add("severity", DataTypes.StringType)
                .add("source_ip", DataTypes.StringType)
                .add("user_id", DataTypes.StringType)
                .add("content", DataTypes.StringType);
        Dataset<Row> counts = session.readStream()
                .format("kafka")
                .option("kafka.bootstrap.servers", pass.bootstrap())
                .option("subscribe", pass.input())
                .option("startingOffsets", "earliest")
                .option("kafka.max.partition.fetch.bytes", 4 << 20)
                .option("kafka.max.poll.records", 5000)
                .load()
                .select(from_json(col("value").cast("string"), schema).as("record"))
                .select("record.*")
                .withColumn("event_time", timestamp_millis(col("timestamp")))
                .withWatermark("event_time", "30 seconds")
                .filter(col("content").contains("crash").and(col("severity").isin("High", "Critical")))
                .groupBy(window(col("event_time"), "10 seconds"), col("user_id"))
                .count()
                .filter(col("count").gt(2));
        Column interval = struct(
                iso("window.start").as("start"), iso("window.end").as("end"),
                unix_millis(col("window.start")).as("start_ms"), unix_millis(col("window.end")).as("end_ms"));
        Column result = struct(
                interval.as("interval"), col("user_id"), col("count").as("crash_count"), lit("update").as("mode"));
        return counts.select(
                concat_ws("|", col("user_id"), unix_millis(col("window.start"))).as("key"), to_json(result).as("value"));
    }

    private static Column iso(String time) {
        return date_format(col(time), "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'");
    }

    private SparkPeer() {}
}
